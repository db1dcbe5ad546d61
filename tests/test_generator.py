"""The generator: its shapes and names, its numbers against the papers, and the seam where noise enters.

Long, because the network is written a second time here, in NumPy and from the papers, as the oracle of the first.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from numpy.typing import NDArray
from torch import Tensor
from toys import ToyLatent, ToyParams, toy

from noisegan.api import Strategy
from noisegan.core.generator import Generator
from noisegan.core.layers import LOW_PRECISION_BLOCKS, Block, set_precision
from noisegan.core.noise import NoNoise, StreamNoise, noise_mode
from noisegan.core.rng import Streams
from noisegan.core.synthesis import noise_sites
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins

Array = NDArray[np.float64]
SMALL = {"z_dim": 8, "w_dim": 6, "mapping_layers": 2, "channel_base": 64, "channel_max": 6}
LATENT = Strategy(toy(latent=lambda site, p: ToyLatent(site)), ToyParams())
COMBINATIONS = ("none", "additive(strength=0.3)", "fuzzy", "additive(strength=0.3) + fuzzy", "toy")


def strategies(plugins: Plugins, expression: str) -> tuple[Strategy, ...]:
    return (LATENT,) if expression == "toy" else plugins.parse(expression)


def generator(plugins: Plugins, expression: str = "additive(strength=0.3)", **options: Any) -> Generator:
    return Generator(**{"resolution": 16, **SMALL, **options}, noise=strategies(plugins, expression))


def latents(n: int, z_dim: int = 8) -> Tensor:
    return Streams(1)["z"].source(ids=range(n)).normal(z_dim)


def moved_off_start(network: torch.nn.Module, seed: int = 9) -> None:
    """Every parameter a little elsewhere, so that none hides behind a start at 0 or 1."""
    for name, p in network.named_parameters():
        with torch.no_grad():
            p += 0.2 * Streams(seed)[name].source(ids=[0]).normal(*p.shape)[0]


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


# Numbers: the skip generator written from the papers


def lrelu(x: Array) -> Array:
    return np.where(x > 0, x, 0.2 * x) * np.sqrt(2)


def second_moment(x: Array) -> Array:
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-8)


def stuffed(x: Array) -> Array:
    out = np.zeros((*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1]))
    out[..., ::2, ::2] = x
    return out


FIR = 4 * np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def enlarged(image: Array) -> Array:
    """[C, H, W] -> [C, 2H, 2W] by zero insertion and the filter."""
    around = np.pad(stuffed(image), ((0, 0), (2, 1), (2, 1)))
    return np.stack([scipy.signal.convolve2d(channel, FIR, mode="valid") for channel in around])


def mixed(x: Array, weight: Array, up: bool) -> Array:
    """[I, H, W] with [O, I, k, k]: correlation, or for up the transposed convolution and then the filter."""
    out = []
    for kernels in weight:
        pairs = zip(x, kernels, strict=True)
        if not up:
            out.append(sum(scipy.signal.correlate2d(a, k, mode="same") for a, k in pairs))
            continue
        size = 2 * x.shape[1] + 1
        full = sum(scipy.signal.convolve2d(stuffed(a), k, mode="full")[:size, :size] for a, k in pairs)
        out.append(scipy.signal.convolve2d(np.pad(full, 1), FIR, mode="valid"))
    return np.stack(out)


def skip_generator(state: dict[str, Array], z: Array, noise: dict[str, Array], resolution: int) -> Array:
    """z [N, z_dim] -> [N, C, R, R]: Karras et al. 2019 (mapping, style, noise) and 2020 (demodulation, skips)."""
    w = second_moment(z)
    for i in range(sum(name.startswith("mapping.fc") for name in state) // 2):
        weight, bias = state[f"mapping.fc{i}.weight"], state[f"mapping.fc{i}.bias"]
        w = lrelu(w @ weight.T * 0.01 / np.sqrt(weight.shape[1]) + 0.01 * bias)

    def style(layer: str, n: int) -> Array:
        a = state[f"{layer}.affine.weight"]
        return a @ w[n] / np.sqrt(a.shape[1]) + state[f"{layer}.affine.bias"]

    def site(x: Array, name: str, n: int, up: bool) -> Array:
        layer = f"synthesis.{name}"
        kernels = style(layer, n)[None, :, None, None] * state[f"{layer}.weight"]
        kernels = kernels / np.sqrt((kernels**2).sum(axis=(1, 2, 3), keepdims=True) + 1e-8)
        x = mixed(x, kernels, up) + state[f"{layer}.noise.additive.strength"] * noise[f"{name}/additive"][n]
        return lrelu(x + state[f"{layer}.bias"][:, None, None])

    images = []
    for n in range(len(z)):
        x, image = state["synthesis.b4.const"], None
        for r in (2**k for k in range(2, int(np.log2(resolution)) + 1)):
            if r > 4:
                x = site(x, f"b{r}.conv0", n, up=True)
                image = enlarged(image)
            x = site(x, f"b{r}.conv1", n, up=False)
            s = style(f"synthesis.b{r}.torgb", n) / np.sqrt(len(x))
            colour = state[f"synthesis.b{r}.torgb.weight"][:, :, 0, 0]
            rgb = np.einsum("oc,c,chw->ohw", colour, s, x) + state[f"synthesis.b{r}.torgb.bias"][:, None, None]
            image = rgb if image is None else image + rgb
        images.append(image)
    return np.stack(images)


def test_the_whole_skip_generator_has_the_numbers_of_the_papers(plugins: Plugins) -> None:
    G = generator(plugins, "additive").double()
    moved_off_start(G)
    z = latents(3).double()
    noise = {key: e.double() for key, e in G.draw_noise("frozen", 3).items()}
    assert len(noise) == 5
    expected = skip_generator(
        {name: value.numpy() for name, value in G.state_dict().items()},
        z.numpy(),
        {key: e.numpy() for key, e in noise.items()},
        16,
    )
    found = G(z, noise=noise).detach().numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_truncation_moves_w_towards_its_mean(plugins: Plugins) -> None:
    G, z = generator(plugins), latents(3)
    G.mapping.w_avg.copy_(torch.linspace(-1, 1, 6))
    w, psi = G.mapping(z), 0.3
    expected = (G.mapping.w_avg + psi * (w - G.mapping.w_avg))[:, None].expand(-1, G.num_ws, -1)
    torch.testing.assert_close(G.styles(z, truncation=psi), expected)
    torch.testing.assert_close(G.styles(z), w[:, None].expand(-1, G.num_ws, -1))
    torch.testing.assert_close(G.styles(z, truncation=0), G.mapping.w_avg.expand(3, G.num_ws, -1))


@pytest.mark.parametrize("cutoff", [0, 2, 6])
def test_truncation_cutoff_counts_the_leading_ws(plugins: Plugins, cutoff: int) -> None:
    G, z = generator(plugins), latents(3)
    G.mapping.w_avg.fill_(2)
    found = G.styles(z, truncation=0.3, truncation_cutoff=cutoff)
    assert torch.equal(found[:, :cutoff], G.styles(z, truncation=0.3)[:, :cutoff])
    assert torch.equal(found[:, cutoff:], G.styles(z)[:, cutoff:])


def test_the_running_mean_of_w_moves_by_half_a_percent(plugins: Plugins) -> None:
    mapping = generator(plugins).mapping
    mapping.track(torch.full((6,), 4.0))
    torch.testing.assert_close(mapping.w_avg, torch.full((6,), 4.0 * 0.005))


def test_torgb_shares_its_w_with_the_next_convolution(plugins: Plugins) -> None:
    G = generator(plugins, "none")
    seen = {}
    for name, module in G.synthesis.named_modules():
        if name.endswith("affine"):
            module.register_forward_hook(lambda _, inputs, __, name=name: seen.__setitem__(name, inputs[0]))
    numbered = torch.arange(6.0)[None, :, None].expand(1, 6, 6)
    G.synthesis(numbered, G.draw_noise("off", 1))
    assert {name.removesuffix(".affine"): int(w[0, 0]) for name, w in seen.items()} == {
        "b4.conv1": 0,
        "b4.torgb": 1,
        "b8.conv0": 1,
        "b8.conv1": 2,
        "b8.torgb": 3,
        "b16.conv0": 3,
        "b16.conv1": 4,
        "b16.torgb": 5,
    }


# Noise modes


@pytest.mark.parametrize("expression", COMBINATIONS)
def test_frozen_noise_repeats_and_follows_the_sample_id(plugins: Plugins, expression: str) -> None:
    G, z = generator(plugins, expression).double(), latents(4).double()
    whole = G(z, noise=noise_mode("frozen", 4, seed=3))
    assert torch.equal(whole, G(z, noise=noise_mode("frozen", 4, seed=3)))
    order = [2, 0, 3, 1]
    shuffled = G(z[order], noise=noise_mode("frozen", 4, seed=3, ids=order))
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=1e-12)
    parts = [G(z[ids], noise=noise_mode("frozen", len(ids), seed=3, ids=ids)) for ids in ([0], [1, 2, 3])]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("expression", COMBINATIONS[1:])
def test_fresh_noise_differs_and_so_do_ids_seeds_steps_and_phases(plugins: Plugins, expression: str) -> None:
    G, z = generator(plugins, expression), latents(1)
    images = [
        G(z, noise=mode)
        for mode in (
            "fresh",
            "fresh",
            "frozen",
            "off",
            noise_mode("frozen", 1, seed=1),
            noise_mode("frozen", 1, ids=[1]),
            StreamNoise(Streams(0), ids=[0], step=1),
            StreamNoise(Streams(0), ids=[0], phase="D"),
        )
    ]
    for i, a in enumerate(images):
        for b in images[:i]:
            assert not torch.equal(a, b)


def test_modes_by_name_have_the_documented_defaults(plugins: Plugins) -> None:
    G, z = generator(plugins), latents(2)
    assert torch.equal(G(z, noise="frozen"), G(z, noise=StreamNoise(Streams(0), ids=[0, 1])))
    assert torch.equal(G(z, noise="off"), G(z, noise=NoNoise(2)))


def test_additive_noise_switched_off_equals_zero_strength_and_no_strategy(plugins: Plugins) -> None:
    z = latents(2)
    off = generator(plugins, "additive(strength=0.3)")(z, noise="off")
    assert torch.equal(off, generator(plugins, "additive(strength=0)")(z, noise="frozen"))
    assert torch.equal(off, generator(plugins, "none")(z, noise="frozen"))
    bare = Generator(resolution=16, **SMALL)  # type: ignore[arg-type]
    assert torch.equal(off, bare(z, noise="fresh"))


@pytest.mark.parametrize("expression", COMBINATIONS)
def test_given_tensors_reproduce_the_drawn_ones(plugins: Plugins, expression: str) -> None:
    G, z = generator(plugins, expression), latents(2)
    assert torch.equal(G(z, noise=G.draw_noise("frozen", 2)), G(z, noise="frozen"))


def test_gradients_reach_given_noise(plugins: Plugins) -> None:
    G = generator(plugins)
    noise = {key: e.requires_grad_() for key, e in G.draw_noise("frozen", 2).items()}
    G(latents(2), noise=noise).square().sum().backward()
    assert all(e.grad is not None and float(e.grad.abs().max()) > 0 for e in noise.values())


def test_missing_noise_is_named(plugins: Plugins) -> None:
    G = generator(plugins)
    noise = G.draw_noise("frozen", 1)
    del noise["b8.conv0/additive"], noise["b16.conv1/additive"]
    with pytest.raises(NoiseganError, match=r"b16\.conv1/additive is missing .*; b8\.conv0/additive is missing"):
        G(latents(1), noise=noise)


def test_an_unknown_mode_is_refused_with_the_known_ones(plugins: Plugins) -> None:
    with pytest.raises(NoiseganError, match="noise mode 'random' is unknown: choose fresh, frozen, off"):
        generator(plugins)(latents(1), noise="random")


def test_noise_has_no_default(plugins: Plugins) -> None:
    with pytest.raises(TypeError, match="noise"):
        generator(plugins)(latents(1))


# Strategies side by side


def test_strategies_under_comparison_meet_the_same_noise(plugins: Plugins) -> None:
    additive, fuzzy = (generator(plugins, e).draw_noise("frozen", 2) for e in ("additive", "fuzzy"))
    assert len(additive) == 5
    for key, e in additive.items():
        assert torch.equal(e, fuzzy[key.replace("additive", "fuzzy")])


def test_noise_of_sites_and_of_composed_strategies_is_independent(plugins: Plugins) -> None:
    noise = generator(plugins, "additive + fuzzy").draw_noise("frozen", 4)
    assert not torch.equal(noise["b8.conv0/additive"], noise["b8.conv1/additive"])
    assert not torch.equal(noise["b8.conv0/additive"], noise["b8.conv0/fuzzy"])


def test_composed_strategies_are_applied_as_written(plugins: Plugins) -> None:
    G = generator(plugins, "additive(strength=0.5) + fuzzy")
    layer = G.synthesis.b8.conv1
    x, w = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0)), latents(2, 6)
    met = []
    for injector in layer.noise.values():
        injector.register_forward_hook(lambda _, inputs, out: met.append((inputs[0], out)))
    layer(x, w, G.draw_noise("frozen", 2))
    assert list(layer.noise) == ["additive", "fuzzy"]
    assert torch.equal(met[0][1], met[1][0])  # what additive gives is what fuzzy gets


def test_the_order_of_composition_matters(plugins: Plugins) -> None:
    one, other = (generator(plugins, e) for e in ("additive(strength=0.5) + fuzzy", "fuzzy + additive(strength=0.5)"))
    noise = one.draw_noise("frozen", 2)
    assert set(noise) == set(other.draw_noise("off", 2))
    difference = one(latents(2), noise=noise) - other(latents(2), noise=noise)
    assert float(difference.detach().abs().max()) > 1e-3


def test_noise_enters_before_bias_and_activation(plugins: Plugins) -> None:
    G = generator(plugins, "additive(strength=1)")
    layer = G.synthesis.b4.conv1
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(0.5)
    e = torch.linspace(-2, 2, 16).view(1, 1, 4, 4)
    out = layer(torch.ones(1, 6, 4, 4), torch.zeros(1, 6), {"b4.conv1/additive": e})
    expected = torch.where(e + 0.5 > 0, e + 0.5, 0.2 * (e + 0.5)) * 2**0.5
    torch.testing.assert_close(out, expected.expand(1, 6, 4, 4))


def test_shared_parameters_start_equal_under_every_strategy(plugins: Plugins) -> None:
    base = generator(plugins, "none", seed=4).state_dict()
    assert len(base) > 20
    for expression in COMBINATIONS[1:]:
        state = generator(plugins, expression, seed=4).state_dict()
        assert base.keys() <= state.keys()
        for name, value in base.items():
            assert torch.equal(value, state[name]), (expression, name)


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


# Precision, copies, errors


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


def test_given_noise_must_fit(plugins: Plugins) -> None:
    G = generator(plugins)
    z, noise = torch.zeros(2, G.z_dim), G.draw_noise("frozen", 2)
    with pytest.raises(NoiseganError, match=r"b8\.conv0/additive is \[1, 1, 8, 8\] where \[2, 1, 8, 8\] is expected"):
        G(z, noise=noise | {"b8.conv0/additive": noise["b8.conv0/additive"][:1]})
    with pytest.raises(NoiseganError, match=r"b9/x is \[1\] where nothing is expected"):
        G(z, noise=noise | {"b9/x": torch.zeros(1)})
    with pytest.raises(NoiseganError, match="the noise is for 3 samples and the batch has 2"):
        G(z, noise=noise_mode("frozen", 3))


def test_a_sample_keeps_its_frozen_noise_by_its_id(plugins: Plugins) -> None:
    G = generator(plugins, "additive(strength=1)").double()
    z = torch.linspace(-1, 1, 2 * G.z_dim).view(2, -1)
    both = G(z, noise="frozen", ids=[7, 3])
    torch.testing.assert_close(G(z[1:], noise="frozen", ids=[3]), both[1:], rtol=0, atol=1e-9)
    assert not torch.allclose(G(z[1:], noise="frozen", ids=[4]), both[1:], atol=1e-3)


def test_a_float64_latent_is_taken_by_a_float32_network(plugins: Plugins) -> None:
    G = generator(plugins).float()
    assert G(torch.zeros(1, G.z_dim, dtype=torch.float64), noise="off").dtype == torch.float32
