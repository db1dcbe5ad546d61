"""What is measured of a reconstruction: transcriptions, known answers, and what noise carries."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift
from test_inversion import CPU, network, samples

from noisegan.core.rng import Streams
from noisegan.inversion.losses import make_loss
from noisegan.inversion.noise import describe_noise
from noisegan.inversion.output import Projected
from noisegan.inversion.projector import Inversion, ProjectorOptions, invert
from noisegan.inversion.quality import (
    all_lags,
    compare_images,
    edge_strength,
    fresh_distances,
    measure_noise,
    mutual_information,
    ssim,
    white_autocorrelation,
)
from noisegan.inversion.regulariser import autocorrelation

Array = np.ndarray[Any, Any]


def white(n: int, *shape: int, name: str = "white") -> torch.Tensor:
    return Streams(5)[name].source(ids=range(n)).normal(*shape).double()


def plain_ssim(a: Array, b: Array) -> float:
    """Wang et al. 2004, eq. 13, of one channel in 0..1, with scipy: blur, then leave out what the edge touched."""

    def blur(x: Array) -> Array:
        return gaussian_filter(x, 1.5, truncate=5 / 1.5, mode="constant")[5:-5, 5:-5]

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return float(np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))))


@pytest.mark.parametrize("size", [11, 16, 32])
def test_ssim_is_the_papers(size: int) -> None:
    x = white(2, 3, size, size).tanh()
    y = (0.7 * x + 0.5 * white(2, 3, size, size, name="other")).clamp(-1, 1)
    a, b = ((0.5 + x / 2).numpy(), (0.5 + y / 2).numpy())
    expected = [np.mean([plain_ssim(a[i, c], b[i, c]) for c in range(3)]) for i in range(2)]
    np.testing.assert_allclose(ssim(x, y).numpy(), expected, rtol=1e-10)


def test_ssim_of_small_and_equal_and_inverted_images() -> None:
    x = white(2, 1, 8, 8).tanh()
    torch.testing.assert_close(ssim(x, x), torch.ones(2, dtype=torch.float64))
    checkers = (torch.arange(64).view(8, 8) + torch.arange(8)[:, None]).remainder(2).double()[None, None] * 2 - 1
    assert float(ssim(checkers, -checkers)) < -0.9


def test_mse_and_psnr_have_known_answers() -> None:
    target = torch.zeros(2, 1, 8, 8)
    image = torch.stack([torch.full((1, 8, 8), 0.2), torch.full((1, 8, 8), 3.0)])  # the second is clamped to 1
    found = compare_images(image, target)
    np.testing.assert_allclose(found["mse"], [0.04, 1.0], rtol=1e-6)
    np.testing.assert_allclose(found["psnr"], [20.0, 10 * math.log10(4)], rtol=1e-6)
    assert float(compare_images(target, target)["psnr"][0]) == math.inf


def test_the_colour_of_what_cannot_be_seen_does_not_count() -> None:
    target = white(1, 4, 8, 8).tanh()
    target[:, 3] = -1  # wholly clear
    image = target.clone()
    image[:, :3] = -image[:, :3]
    found = compare_images(image, target)
    assert float(found["mse"]) == 0
    opaque = target.clone()
    opaque[:, 3] = 1
    assert float(compare_images(opaque, target)["mse"]) > 0.1


def test_white_noise_has_autocorrelation_one() -> None:
    for size in (8, 16):
        maps = white(2000, 1, size, size)
        assert float(autocorrelation([maps]).mean()) / white_autocorrelation(size) == pytest.approx(1, rel=0.1)
        assert float(all_lags(maps).mean()) == pytest.approx(1, rel=0.1)
    assert white_autocorrelation(32) == 2 / 1024 + 2 / 256 + 2 / 64


def test_all_lags_is_the_sum_over_lags_and_sees_what_the_regulariser_does_not() -> None:
    maps = white(3, 1, 8, 8)
    x = (maps - maps.mean(dim=(2, 3), keepdim=True)).numpy()[:, 0]
    expected = [
        sum((np.sum(m * np.roll(m, (i, j), (0, 1))) / np.sum(m * m)) ** 2 for i in range(8) for j in range(8) if i or j)
        for m in x
    ]
    np.testing.assert_allclose(all_lags(maps)[:, 0], expected, rtol=1e-10)
    wave = math.sqrt(2) * torch.sin(
        torch.arange(16, dtype=torch.float64) * math.pi / 2
    )  # zero correlation at one pixel
    rows = wave + 0 * white(1, 1, 16, 16)
    assert float((rows * rows.roll(1, dims=3)).mean()) == pytest.approx(0, abs=1e-12)
    assert float(all_lags(rows)) > 100


def test_mutual_information_is_zero_for_noise_and_large_for_a_copy() -> None:
    edges = np.abs(gaussian_filter(np.random.default_rng(0).normal(size=(200, 16, 16)), (0, 2, 2)))
    rng = np.random.default_rng(1)
    nothing = [mutual_information(rng.normal(size=(16, 16)), e) for e in edges]
    assert abs(np.mean(nothing)) < 4 * np.std(nothing) / math.sqrt(len(nothing))
    assert np.std(nothing) < 0.06
    smooth = [mutual_information(gaussian_filter(rng.normal(size=(16, 16)), 2, mode="wrap"), e) for e in edges]
    assert abs(np.mean(smooth)) < 4 * np.std(smooth) / math.sqrt(len(smooth))  # both smooth: still no bias
    copies = [mutual_information(e, e) for e in edges[:5]]
    assert min(copies) > 1.5  # of log2(6) = 2.6 bits
    signs = [mutual_information(rng.choice([-1, 1], (16, 16)) * e, e) for e in edges[:20]]
    assert np.mean(signs) > 0.3  # a dependence without correlation
    displaced = [mutual_information(shift(e, (5, 3), mode="wrap"), e) for e in edges]
    assert abs(np.mean(displaced)) < 0.2 * np.mean(copies)


def test_edges_are_where_the_image_changes() -> None:
    step = torch.full((1, 1, 16, 16), -1.0)
    step[..., 8:] = 1
    strength = edge_strength(step, 16)[0]
    assert set(strength.nonzero()[:, 1].tolist()) == {7, 8}
    assert float(strength[0, 7]) == pytest.approx(1)
    assert edge_strength(step, 4)[0, 0].tolist() == pytest.approx([0, 0.25, 0.25, 0])


def as_projected(found: Inversion) -> Projected:
    noise = {key: value[None] for key, value in found.noise.items()}
    return Projected("one", Path("one"), found.w[None], noise, None, {})


def test_a_leak_into_the_maps_is_measured() -> None:
    """Without the regulariser the image lives in the maps."""
    torch.manual_seed(0)
    G = network("additive(strength=0.3)", resolution=16)
    infos = describe_noise(G)
    targets = samples(G, 2)[0].clamp(-1, 1)
    targets[:, :, 4:12, 4:12] = 1  # what this network does not make
    loss = make_loss("mse", CPU)
    found: dict[float, dict[str, float]] = {}
    for weight in (0.0, 1e5):
        inversions = invert(G, targets, ProjectorOptions(steps=60, loss="mse", noise_weight=weight))
        noise = {key: torch.stack([f.noise[key] for f in inversions]) for key in inversions[0].noise}
        measures = measure_noise(infos, noise, targets)
        fresh = [fresh_distances(G, as_projected(f), loss, t)["mse"] for f, t in zip(inversions, targets, strict=True)]
        own = [f.final["mse"] for f in inversions]
        found[weight] = {name: float(value.mean()) for name, value in measures.items()}
        found[weight]["lost"] = float(np.mean(fresh) - np.mean(own))
    assert found[0.0]["autocorrelation"] > 2 > 1 > found[1e5]["autocorrelation"]
    assert found[0.0]["all_lags"] > found[1e5]["all_lags"]
    assert found[0.0]["lost"] > max(0, found[1e5]["lost"])


def test_edges_in_the_maps_are_measured() -> None:
    """Maps that are a third edges of the target, by variance, against draws."""
    G = network("additive(strength=0.3)", resolution=16)
    infos = describe_noise(G)
    targets = torch.zeros(8, 1, 16, 16)
    for i in range(8):
        targets[i, :, 2 : 6 + i, 3:12] = 1
    drawn = G.draw_noise("frozen", 8)
    mixed = {}
    for key, noise in drawn.items():
        edges = edge_strength(targets, noise.shape[-1])[:, None]
        edges = (edges - edges.mean(dim=(2, 3), keepdim=True)) / edges.std(dim=(2, 3), keepdim=True)
        mixed[key] = (math.sqrt(2 / 3) * noise + math.sqrt(1 / 3) * edges).float()
    clean, planted = (measure_noise(infos, noise, targets)["mutual_information"] for noise in (drawn, mixed))
    assert abs(float(clean.mean())) < 0.02
    assert float(planted.min()) > 0.05


def test_noise_that_is_off_or_no_map_has_no_measures() -> None:
    G = network("additive(strength=0.3)")
    targets = samples(G, 2)[0]
    assert measure_noise(describe_noise(G), G.draw_noise("off", 2), targets) == {}
    plain = network("none")
    assert measure_noise(describe_noise(plain), {}, targets) == {}
    drawn = G.draw_noise("frozen", 2)
    assert measure_noise(describe_noise(G), drawn, targets, among=[]) == {}
    assert measure_noise(describe_noise(G), drawn, targets)["all_lags"].shape == (2,)
