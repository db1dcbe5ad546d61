"""The generator: its shapes, the names of its parameters, seeds, precision, copies, and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from generating import COMBINATIONS, generator, latents, moved_off_start

from noisegan.core.layers import LOW_PRECISION_BLOCKS, Block, set_precision
from noisegan.core.synthesis import noise_sites
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins

# Shapes and names


@pytest.mark.parametrize("resolution", [8, 16, 32, 64])
@pytest.mark.parametrize("architecture", ["skip", "residual", "plain"])
def test_images_have_the_resolution_asked_for(plugins: Plugins, resolution: int, architecture: str) -> None:
    G = generator(plugins, resolution=resolution, architecture=architecture)
    assert G(latents(2), noise="frozen").shape == (2, 3, resolution, resolution)
    assert G.num_ws == 2 * int(np.log2(resolution)) - 2


def test_the_largest_resolution_works(plugins: Plugins) -> None:
    G = generator(plugins, resolution=1024, channel_base=1024, channel_max=4)
    with torch.no_grad():
        assert G(latents(1), noise="frozen").shape == (1, 3, 1024, 1024)
    assert G.num_ws == 18


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("c_dim", [0, 5])
def test_images_have_the_channels_asked_for_with_and_without_classes(
    plugins: Plugins, channels: int, c_dim: int
) -> None:
    G = generator(plugins, img_channels=channels, c_dim=c_dim)
    c = torch.eye(5)[:2] if c_dim else None
    assert G(latents(2), c, noise="off").shape == (2, channels, 16, 16)


def test_classes_make_a_difference(plugins: Plugins) -> None:
    G, z = generator(plugins, c_dim=3), latents(1)
    images = [G(z, torch.eye(3)[[k]], noise="off") for k in range(2)]
    assert float((images[0] - images[1]).detach().abs().max()) > 1e-3


def test_z_and_the_embedded_class_are_normalised_each(plugins: Plugins) -> None:
    mapping = generator(plugins, c_dim=3).mapping
    met = []
    mapping.fc0.register_forward_hook(lambda _, inputs, __: met.append(inputs[0]))
    mapping(5 * latents(3), torch.eye(3))
    moments = [met[0][:, part].square().mean(dim=1) for part in (slice(0, 8), slice(8, 14))]
    torch.testing.assert_close(torch.stack(moments), torch.ones(2, 3))


def test_a_residual_block_is_the_sum_of_two_ways_over_sqrt_2(plugins: Plugins) -> None:
    G = generator(plugins, "none", architecture="residual").double()
    block, noise = G.synthesis.b8, G.draw_noise("off", 2)
    x, ws = latents(2, 6 * 16).double().view(2, 6, 4, 4), latents(2, 18).double().view(2, 3, 6)
    other_way = block.conv1(block.conv0(x, ws[:, 0], noise), ws[:, 1], noise)
    torch.testing.assert_close(block(x, None, ws, noise)[0], (block.skip(x) + other_way) / 2**0.5)


SKIP_8 = """
mapping.fc0.weight [6, 8]
mapping.fc0.bias [6]
mapping.fc1.weight [6, 6]
mapping.fc1.bias [6]
synthesis.b4.const [6, 4, 4]
synthesis.b4.conv1.weight [6, 6, 3, 3]
synthesis.b4.conv1.bias [6]
synthesis.b4.conv1.affine.weight [6, 6]
synthesis.b4.conv1.affine.bias [6]
synthesis.b4.conv1.noise.additive.strength []
synthesis.b4.torgb.weight [3, 6, 1, 1]
synthesis.b4.torgb.bias [3]
synthesis.b4.torgb.affine.weight [6, 6]
synthesis.b4.torgb.affine.bias [6]
synthesis.b8.conv0.weight [5, 6, 3, 3]
synthesis.b8.conv0.bias [5]
synthesis.b8.conv0.affine.weight [6, 6]
synthesis.b8.conv0.affine.bias [6]
synthesis.b8.conv0.noise.additive.strength []
synthesis.b8.conv1.weight [5, 5, 3, 3]
synthesis.b8.conv1.bias [5]
synthesis.b8.conv1.affine.weight [5, 6]
synthesis.b8.conv1.affine.bias [5]
synthesis.b8.conv1.noise.additive.strength []
synthesis.b8.torgb.weight [3, 5, 1, 1]
synthesis.b8.torgb.bias [3]
synthesis.b8.torgb.affine.weight [5, 6]
synthesis.b8.torgb.affine.bias [5]
"""


def shapes(network: torch.nn.Module) -> set[str]:
    return {f"{name} {list(p.shape)}" for name, p in network.named_parameters()}


def test_parameter_names_and_shapes_are_those_that_checkpoints_hold(plugins: Plugins) -> None:
    G = generator(plugins, resolution=8, channel_base=40)
    assert shapes(G) == set(SKIP_8.split("\n")) - {""}
    assert set(G.state_dict()) - dict(G.named_parameters()).keys() == {"mapping.w_avg"}


def test_residual_adds_skip_weights_and_keeps_one_torgb(plugins: Plugins) -> None:
    skip = shapes(generator(plugins, resolution=8, channel_base=40))
    residual = shapes(generator(plugins, resolution=8, channel_base=40, architecture="residual"))
    assert residual - skip == {"synthesis.b8.skip.weight [5, 6, 1, 1]"}
    assert skip - residual == {name for name in skip if name.startswith("synthesis.b4.torgb.")}


def test_a_conditional_generator_embeds_its_classes(plugins: Plugins) -> None:
    assert shapes(generator(plugins, c_dim=3)) - shapes(generator(plugins)) == {
        "mapping.embed.weight [6, 3]",
        "mapping.embed.bias [6]",
        "mapping.fc0.weight [6, 14]",
    }


def test_repeated_strategies_get_labels_of_their_own(plugins: Plugins) -> None:
    G = generator(plugins, "additive + additive", resolution=8)
    assert list(G.draw_noise("off", 1))[:2] == ["b4.conv1/additive", "b4.conv1/additive-2"]


def test_sites_are_described_as_the_features_are() -> None:
    sites = noise_sites(16, w_dim=7, channel_base=64, channel_max=6)
    found = [(s.index, s.name, s.resolution, s.channels, s.upsampled) for s in sites]
    assert found == [
        (0, "b4.conv1", 4, 6, False),
        (1, "b8.conv0", 8, 6, True),
        (2, "b8.conv1", 8, 6, False),
        (3, "b16.conv0", 16, 4, True),
        (4, "b16.conv1", 16, 4, False),
    ]
    assert {(s.num_sites, s.w_dim) for s in sites} == {(5, 7)}


# Seeds, precision, copies, errors


@pytest.mark.parametrize("expression", ["fuzzy", "toy"])
def test_a_seed_fixes_every_parameter_and_another_changes_them(plugins: Plugins, expression: str) -> None:
    torch.manual_seed(1)
    first = generator(plugins, expression, seed=4).state_dict()
    torch.manual_seed(2)
    again, other = (generator(plugins, expression, seed=seed).state_dict() for seed in (4, 5))
    assert all(torch.equal(first[name], again[name]) for name in first)
    random = [name for name in first if name.endswith((".weight", "const"))]
    assert random
    assert not any(torch.equal(first[name], other[name]) for name in random)


def test_building_and_running_leaves_the_global_random_state_alone(plugins: Plugins) -> None:
    before = torch.random.get_rng_state()
    generator(plugins, "toy")(latents(1), noise="fresh")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("architecture", ["skip", "residual", "plain"])
@pytest.mark.parametrize("expression", ["additive(strength=0.3)", "fuzzy", "toy"])
def test_bfloat16_blocks_come_close_to_float32(plugins: Plugins, architecture: str, expression: str) -> None:
    G, z = generator(plugins, expression, architecture=architecture), latents(2)
    full = G(z, noise="frozen").detach()
    set_precision(G, torch.bfloat16)
    low = G(z, noise="frozen").detach()
    assert low.dtype == torch.float32
    assert 0 < float((low - full).square().mean().sqrt()) < 0.02 * float(full.square().mean().sqrt())
    set_precision(G, None)
    assert torch.equal(G(z, noise="frozen").detach(), full)


def test_low_precision_is_for_the_highest_resolutions(plugins: Plugins) -> None:
    G = generator(plugins, resolution=128)
    set_precision(G, torch.bfloat16)
    low = {m.resolution for m in G.modules() if isinstance(m, Block) and m.low_precision is not None}
    assert low == {128, 64, 32, 16}
    assert len(low) == LOW_PRECISION_BLOCKS


@pytest.mark.parametrize("expression", COMBINATIONS)
def test_a_deep_copy_makes_the_same_images_and_shares_nothing(plugins: Plugins, expression: str) -> None:
    G, z = generator(plugins, expression), latents(1)
    before = G(z, noise="frozen")
    copied = copy.deepcopy(G)
    assert torch.equal(copied(z, noise="frozen"), before)
    moved_off_start(copied)
    assert torch.equal(G(z, noise="frozen"), before)


@pytest.mark.parametrize("resolution", [0, 4, 48, 2048])
def test_a_bad_resolution_is_refused(plugins: Plugins, resolution: int) -> None:
    with pytest.raises(NoiseganError, match=f"resolution {resolution} is not a power of two from 8 to 1024"):
        generator(plugins, resolution=resolution)


def test_bad_channels_and_architectures_are_refused(plugins: Plugins) -> None:
    with pytest.raises(NoiseganError, match="images have 1, 3 or 4 channels, not 2"):
        generator(plugins, img_channels=2)
    with pytest.raises(NoiseganError, match="architecture 'resnet' is unknown: choose skip, residual, plain"):
        generator(plugins, architecture="resnet")


@pytest.mark.parametrize("shape", [(2, 7), (8,), (1, 2, 8)])
def test_z_of_another_shape_is_refused(plugins: Plugins, shape: tuple[int, ...]) -> None:
    with pytest.raises(NoiseganError, match=r"z must have shape \[N, 8\], got \["):
        generator(plugins)(torch.zeros(shape), noise="off")


def test_missing_or_misshapen_labels_are_refused(plugins: Plugins) -> None:
    G = generator(plugins, c_dim=3)
    with pytest.raises(NoiseganError, match=r"needs class labels c of shape \[N, 3\], got nothing"):
        G(latents(1), noise="off")
    with pytest.raises(NoiseganError, match=r"needs class labels c of shape \[N, 3\], got \[1, 2\]"):
        G(latents(1), torch.zeros(1, 2), noise="off")


def test_a_float64_latent_is_taken_by_a_float32_network(plugins: Plugins) -> None:
    G = generator(plugins).float()
    assert G(torch.zeros(1, G.z_dim, dtype=torch.float64), noise="off").dtype == torch.float32
