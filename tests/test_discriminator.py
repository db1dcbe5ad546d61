"""The discriminator: shapes and names, minibatch statistics, batches that may be split, classes by projection."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from noisegan.core.discriminator import Discriminator, minibatch_std
from noisegan.core.layers import set_precision
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError

ARCHITECTURES = ["residual", "skip", "plain"]


def discriminator(**options: Any) -> Discriminator:
    return Discriminator(**{"resolution": 16, "channel_base": 64, "channel_max": 6, "mapping_layers": 2, **options})


def pictures(n: int, channels: int = 3, resolution: int = 16) -> Tensor:
    return Streams(2)["images"].source(ids=range(n)).normal(channels, resolution, resolution)


@pytest.mark.parametrize("resolution", [8, 16, 32, 64])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_image_gets_one_logit(resolution: int, architecture: str) -> None:
    D = discriminator(resolution=resolution, architecture=architecture)
    logits = D(pictures(4, resolution=resolution))
    assert logits.shape == (4, 1)
    assert float(logits.detach().std()) > 0


def test_the_largest_resolution_works() -> None:
    with torch.no_grad():
        assert discriminator(resolution=1024, channel_base=1024, channel_max=4)(
            torch.zeros(1, 3, 1024, 1024)
        ).isfinite()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_channel_matters(channels: int, architecture: str) -> None:
    D, images = discriminator(img_channels=channels, architecture=architecture), pictures(2, channels)
    images.requires_grad_()
    D(images).sum().backward()
    assert images.grad is not None
    assert bool((images.grad.abs().amax(dim=(2, 3)) > 0).all())


RESIDUAL_8 = """
b8.fromrgb.weight [5, 3, 1, 1]
b8.fromrgb.bias [5]
b8.conv0.weight [5, 5, 3, 3]
b8.conv0.bias [5]
b8.conv1.weight [6, 5, 3, 3]
b8.conv1.bias [6]
b8.skip.weight [6, 5, 1, 1]
b4.conv.weight [6, 7, 3, 3]
b4.conv.bias [6]
b4.fc.weight [6, 96]
b4.fc.bias [6]
b4.out.weight [1, 6]
b4.out.bias [1]
"""


def shapes(**options: Any) -> set[str]:
    network = discriminator(resolution=8, channel_base=40, **options)
    assert set(network.state_dict()) - dict(network.named_parameters()).keys() <= {"mapping.w_avg"}
    return {f"{name} {list(p.shape)}" for name, p in network.named_parameters()}


def test_parameter_names_and_shapes_are_those_that_checkpoints_hold() -> None:
    assert shapes() == set(RESIDUAL_8.split("\n")) - {""}


def test_architectures_differ_in_skips_and_fromrgb() -> None:
    assert shapes() - shapes(architecture="plain") == {"b8.skip.weight [6, 5, 1, 1]"}
    assert shapes(architecture="skip") - shapes(architecture="plain") == {
        "b4.fromrgb.weight [6, 3, 1, 1]",
        "b4.fromrgb.bias [6]",
    }


def test_classes_add_a_mapping_and_a_wider_end() -> None:
    assert shapes(c_dim=5) - shapes() == {
        "mapping.embed.weight [6, 5]",
        "mapping.embed.bias [6]",
        "mapping.fc0.weight [6, 6]",
        "mapping.fc0.bias [6]",
        "mapping.fc1.weight [6, 6]",
        "mapping.fc1.bias [6]",
        "b4.out.weight [6, 6]",
        "b4.out.bias [6]",
    }


def test_a_group_of_one_leaves_the_statistic_out() -> None:
    assert shapes(mbstd_group=1) - shapes() == {"b4.conv.weight [6, 6, 3, 3]"}
    D, images = discriminator(mbstd_group=1), pictures(3)
    torch.testing.assert_close(D(images), torch.cat([D(image[None]) for image in images]))


@pytest.mark.parametrize(("n", "group"), [(8, 4), (8, 8), (6, 2), (3, 4), (4, 1)])
def test_minibatch_std_is_the_mean_deviation_of_neighbours(n: int, group: int) -> None:
    x = np.random.default_rng(0).normal(size=(n, 3, 2, 4)) * np.arange(1, n + 1)[:, None, None, None]
    expected = np.empty((n, 1, 2, 4))
    size = min(n, group)
    for first in range(0, n, size):
        deviation = np.sqrt(x[first : first + size].var(axis=0) + 1e-8)  # [C, H, W], over the group
        expected[first : first + size] = deviation.mean()
    np.testing.assert_allclose(minibatch_std(torch.from_numpy(x), group).numpy(), expected, rtol=1e-12)


def test_minibatch_std_of_equal_images_has_a_finite_gradient() -> None:
    x = torch.ones(4, 1, 2, 2, requires_grad=True)
    minibatch_std(x, 4).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_may_be_split_between_groups(architecture: str) -> None:
    D, images = discriminator(architecture=architecture).double(), pictures(12).double()
    whole = D(images)
    torch.testing.assert_close(torch.cat([D(images[:4]), D(images[4:])]), whole)
    elsewhere = torch.cat([D(images[:2]), D(images[2:6]), D(images[6:10]), D(images[10:])])
    assert not torch.allclose(elsewhere, whole)  # inside groups it may not


def test_a_batch_that_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(NoiseganError, match="a batch of 6 cannot be split into minibatch-std groups of 4"):
        discriminator()(pictures(6))


def test_classes_enter_by_projection() -> None:
    D, images, c = discriminator(c_dim=5).double(), pictures(4).double(), torch.eye(5, dtype=torch.float64)[:4]
    features = []
    D.b4.out.register_forward_hook(lambda _, __, out: features.append(out))
    logits = D(images, c)
    embedded = D.mapping(None, c)
    expected = torch.stack([f @ e / math.sqrt(6) for f, e in zip(features[0], embedded, strict=True)])[:, None]
    torch.testing.assert_close(logits, expected)
    assert not torch.allclose(D(images, c.flip(0)), logits)


def test_missing_or_misshapen_labels_are_refused() -> None:
    with pytest.raises(NoiseganError, match=r"needs class labels c of shape \[N, 5\], got nothing"):
        discriminator(c_dim=5)(pictures(4))
    with pytest.raises(NoiseganError, match=r"needs class labels c of shape \[N, 5\], got \[4, 3\]"):
        discriminator(c_dim=5)(pictures(4), torch.zeros(4, 3))


def test_the_plain_discriminator_is_convolutions_and_filters_one_after_another() -> None:
    D, images = discriminator(resolution=8, architecture="plain").double(), pictures(4, resolution=8).double()
    for name, p in D.named_parameters():
        with torch.no_grad():
            p += 0.3 * Streams(1)[name].source(ids=[0]).normal(*p.shape)[0]
    s = {name: p.detach() for name, p in D.named_parameters()}

    def layer(x: Tensor, name: str, padding: int, stride: int = 1) -> Tensor:
        weight = s[f"{name}.weight"] / math.sqrt(s[f"{name}.weight"][0].numel())
        return F.leaky_relu(F.conv2d(x, weight, s[f"{name}.bias"], stride, padding), 0.2) * math.sqrt(2)

    x = layer(layer(images, "b8.fromrgb", 0), "b8.conv0", 1)
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    x = F.conv2d(x, torch.outer(taps, taps).expand(6, 1, 4, 4), padding=2, groups=6)
    x = layer(x, "b8.conv1", 0, stride=2)
    deviation = torch.sqrt(x.var(dim=0, correction=0) + 1e-8).mean()
    x = layer(torch.cat([x, deviation.expand(4, 1, 4, 4)], dim=1), "b4.conv", 1).flatten(1)
    x = F.leaky_relu(x @ s["b4.fc.weight"].T / math.sqrt(96) + s["b4.fc.bias"], 0.2) * math.sqrt(2)
    expected = x @ s["b4.out.weight"].T / math.sqrt(6) + s["b4.out.bias"]
    torch.testing.assert_close(D(images).detach(), expected, rtol=0, atol=1e-12)


def test_skip_blocks_hand_on_the_filtered_smaller_image() -> None:
    D, images = discriminator(architecture="skip").double(), pictures(4).double()
    smaller = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    found = D.b16(None, images)[1]
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], smaller[:, :, 1:-1, 1:-1])


def test_a_residual_block_is_the_sum_of_two_ways_over_sqrt_2() -> None:
    D, images = discriminator().double(), pictures(4).double()
    block = D.b16
    x = block.fromrgb(images)
    expected = (block.skip(x) + block.conv1(block.conv0(x))) / math.sqrt(2)
    torch.testing.assert_close(block(None, images)[0], expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_have_first_and_second_gradients(architecture: str) -> None:
    D = discriminator(
        resolution=8, channel_base=16, channel_max=2, img_channels=1, mbstd_group=2, architecture=architecture
    ).double()
    images = pictures(2, 1, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(D, (images,))
    assert torch.autograd.gradgradcheck(lambda x: D(x) ** 2, (images,))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_blocks_come_close_to_float32(architecture: str) -> None:
    D, images = discriminator(architecture=architecture), pictures(4)
    full = D(images).detach()
    set_precision(D, torch.bfloat16)
    low = D(images).detach()
    assert low.dtype == torch.float32
    assert 0 < float((low - full).abs().max()) < 0.05 * float(full.abs().max())


def test_a_seed_fixes_the_start() -> None:
    one, same, other = (discriminator(seed=seed).b4.fc.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(NoiseganError, match="resolution 12 is not a power of two"):
        discriminator(resolution=12)
    with pytest.raises(NoiseganError, match="images have 1, 3 or 4 channels, not 5"):
        discriminator(img_channels=5)
    with pytest.raises(NoiseganError, match="architecture 'orig' is unknown: choose skip, residual, plain"):
        discriminator(architecture="orig")
