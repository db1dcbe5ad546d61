"""How good a reconstruction is, and how much of it its noise carries, image by image.

    measures = compare_images(images, targets)                # {"mse": [N], "psnr": [N], "ssim": [N]}
    measures = measure_noise(infos, noise, targets)           # {"autocorrelation": [N], ...}; {} without maps
    distances = fresh_distances(G, projected, loss, target)   # the same w under noise that was not optimised

Perceptual distances are those of the projector (`noisegan.inversion.losses`). All measures see images as these do: grey
as RGB, RGBA over black and over white with both counting half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from noisegan.api import AnyFeatureInjector
from noisegan.core.generator import Generator
from noisegan.core.noise import StreamNoise
from noisegan.core.rng import Streams
from noisegan.inversion.losses import Loss, seen
from noisegan.inversion.noise import NoiseInfo
from noisegan.inversion.output import Projected
from noisegan.inversion.regulariser import COARSEST, autocorrelation, is_map

RANGE = 2.0
"""Images span [-1, 1]."""
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
"""Of SSIM (Wang et al. 2004, section III.B and eq. 12)."""
MOST_BINS = 8
SHIFTS = 64
"""Displacements that the baseline of mutual information is averaged over."""
FRESH = 4
"""Fresh draws per image."""

Array = NDArray[np.float64]


def compare_images(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """`mse`, `psnr` in decibels, and `ssim`, each [N] float64.

    Args:
        images: [N, C, R, R], clamped to [-1, 1] as a file would be; not rounded.
        targets: [N, C, R, R] in [-1, 1].
    """
    n = len(targets)
    a, b = seen(images.double().clamp(-1, 1)), seen(targets.double())  # [N or 2 N, 3, R, R]
    mse = (a - b).square().mean(dim=(1, 2, 3)).view(-1, n).mean(dim=0)
    psnr = 10 * torch.log10(RANGE**2 / mse)  # infinite for equal images
    return {"mse": mse, "psnr": psnr, "ssim": ssim(a, b).view(-1, n).mean(dim=0)}


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13) of images [N, C, H, W] that span [-1, 1], [N].

    Means, variances and the covariance are weighted by a Gaussian of 11 x 11 pixels, sigma 1.5, where it lies within
    the image; images below 11 px get the largest odd window that fits. The mean is over positions and channels.
    """
    size = min(WINDOW, *(side - 1 + side % 2 for side in a.shape[-2:]))
    x = torch.arange(size, dtype=a.dtype, device=a.device) - size // 2
    line = torch.exp(-x.square() / (2 * SIGMA**2))
    line = line / line.sum()

    def blurred(images: Tensor) -> Tensor:
        flat = images.flatten(0, 1)[:, None]  # [N C, 1, H, W]
        return F.conv2d(F.conv2d(flat, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1)).view(
            *images.shape[:2], images.shape[2] - size + 1, images.shape[3] - size + 1
        )

    a, b = (a + 1) / RANGE, (b + 1) / RANGE  # black is zero: the first factor compares means with zero
    mean_a, mean_b = blurred(a), blurred(b)
    var_a = blurred(a * a) - mean_a.square()
    var_b = blurred(b * b) - mean_b.square()
    covariance = blurred(a * b) - mean_a * mean_b
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def measure_noise(
    infos: Sequence[NoiseInfo], noise: Mapping[str, Tensor], targets: Tensor, *, among: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """What is left in the noise maps that white noise does not have, each [N] float64.

    autocorrelation: the regulariser's L over what it is on average for white noise: 1 for draws, less for maps that
        were pressed below them.
    all_lags: the sum over all lags but zero of squared autocorrelation, mean over maps: 1 for draws. It sees what the
        regulariser does not, such as correlation at three pixels.
    mutual_information: with the target's edges, in bits per pixel of the maps: 0 on average for draws; above where
        both are stronger in the same places, such as the middle, whatever the target.

    Args:
        infos: what `describe_noise` found.
        noise: [N, ...] by key.
        targets: [N, C, R, R] in [-1, 1].
        among: keys to look at, such as those that were optimised; default: all that the image depends on.

    Returns:
        Nothing where no noise is a map, or all maps are constant, as with noise off.
    """
    maps = [
        noise[info.key].double().cpu().flatten(1, -3)
        if noise[info.key].ndim > 3
        else noise[info.key].double().cpu()[:, None]
        for info in infos
        if (info.matters if among is None else info.key in among)
        and isinstance(info.injector, AnyFeatureInjector)
        and is_map(tuple(noise[info.key].shape[1:]))
    ]  # [N, M, r, r] each
    if not maps or not any(bool(m.std(dim=(2, 3)).any()) for m in maps):
        return {}
    expected = sum(m.shape[1] * white_autocorrelation(m.shape[-1]) for m in maps)
    edges = [edge_strength(targets, m.shape[-1]) for m in maps]
    information = torch.tensor(
        [
            _weighted([(mutual_information(m[i, j].numpy(), e[i].numpy()), m[i, j].numel())
                       for m, e in zip(maps, edges, strict=True) for j in range(m.shape[1])])
            for i in range(len(targets))
        ],
        dtype=torch.float64,
    )  # fmt: skip
    return {
        "autocorrelation": autocorrelation(maps) / expected,
        "all_lags": torch.cat([all_lags(m) for m in maps], dim=1).mean(dim=1),
        "mutual_information": information,
    }


def white_autocorrelation(size: int) -> float:
    """What the regulariser is on average for one map of white noise: 2 / r^2 for each level r of its pyramid."""
    total = 2 / size**2
    while size > COARSEST:
        size //= 2
        total += 2 / size**2
    return total


def all_lags(maps: Tensor) -> Tensor:
    """The sum over all lags but zero of the squared circular autocorrelation of maps [..., r, r], [...].

    rho is the autocovariance over the variance. White noise has about 1 / r^2 at each of r^2 - 1 lags, so 1 in all; a
    constant map has 0.
    """
    centred = maps - maps.mean(dim=(-2, -1), keepdim=True)
    power = torch.fft.fft2(centred).abs().square()
    covariance = torch.fft.ifft2(power).real.flatten(-2)  # [..., r r], lag zero in front
    rho = covariance / covariance[..., :1].clamp_min(1e-30)
    total: Tensor = rho[..., 1:].square().sum(dim=-1)
    return total


def edge_strength(targets: Tensor, size: int) -> Tensor:
    """Length of the gradient of luma (ITU-R 601-2), averaged down to `size` x `size`: [N, size, size] float64."""
    rgb = seen(targets.double().cpu())
    luma = (rgb * rgb.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(
        dim=1, keepdim=True
    )  # [N or 2 N, 1, R, R]
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    along_x = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    along_y = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    strength = (along_x.square() + along_y.square()).sqrt()
    strength = strength.view(-1, len(targets), *strength.shape[-2:]).mean(dim=0)  # [N, R, R]
    return F.adaptive_avg_pool2d(strength, (size, size))


def mutual_information(noise: Array, edges: Array) -> float:
    """How much a noise map [r, r] tells about edges [r, r] at the same place, in bits per pixel, bias taken away.

    The histogram estimator with about r^(2/3) bins a side, eight at most, between quantiles. It is far above zero even
    for independent numbers, by about (bins - 1)^2 / (2 r^2 ln 2) bits and by more where both maps are smooth. So the
    mean of the same estimate over circular displacements of the map is taken away, which keeps what each map is and
    breaks only their alignment. The result is 0 on average for white noise, and may be negative.
    """
    count = noise.size
    bins = max(2, min(MOST_BINS, round(count ** (1 / 3))))
    a, b = _binned(noise, bins), _binned(edges, bins)  # [r, r] each
    side = noise.shape[0]
    every = np.arange(1, count)
    chosen = every if len(every) <= SHIFTS else np.random.default_rng(0).choice(every, SHIFTS, replace=False)
    rows = (np.arange(side)[None, :] + (chosen // side)[:, None]) % side  # [S, r]
    columns = (np.arange(side)[None, :] + (chosen % side)[:, None]) % side
    displaced = a[rows[:, :, None], columns[:, None, :]]  # [S, r, r]
    pairs = np.concatenate([a[None], displaced]).reshape(-1, count) * bins + b.reshape(1, -1)
    tables = np.stack([np.bincount(row, minlength=bins * bins) for row in pairs]).reshape(-1, bins, bins) / count
    bits = _entropy(tables.sum(axis=2)) + _entropy(tables.sum(axis=1)) - _entropy(tables.reshape(len(tables), -1))
    return float(bits[0] - bits[1:].mean())


def _binned(values: Array, bins: int) -> NDArray[np.int64]:
    """Bins between quantiles; equal values share one."""
    cuts = np.quantile(values, np.arange(1, bins) / bins)
    found: NDArray[np.int64] = np.searchsorted(cuts, values, side="right")
    return found


def _entropy(p: Array) -> Array:
    """In bits, over the last axis."""
    found: Array = -(p * np.log2(np.where(p > 0, p, 1))).sum(axis=-1)
    return found


def _weighted(pairs: Sequence[tuple[float, int]]) -> float:
    return math.fsum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)


@torch.no_grad()
def fresh_distances(
    G: Generator, projected: Projected, loss: Loss, target: Tensor, *, draws: int = FRESH, seed: int = 0
) -> dict[str, float]:
    """The distances of an inversion when it is rendered with noise that nobody optimised, mean over draws.

    Against the distances with its own noise this tells how much of the reconstruction lives in the noise: a generator
    that puts only what is random into its noise loses nothing.

    Args:
        target: [C, R, R] in [-1, 1].
        draws: fresh draws, each of the same kind as in training.
        seed: of these draws, a stream of their own: the draws that inversions start from are others.
    """
    prepared = loss.prepare(target[None].to(G.mapping.w_avg))
    found: dict[str, list[float]] = {}
    for draw in range(draws):
        noise = G.draw_noise(StreamNoise(Streams(seed), ids=[draw], phase="fresh-inversion"), 1)
        image = projected.render(G, noise)
        for name, value in loss(image[None], prepared).items():
            found.setdefault(name, []).append(float(value[0]))
    return {name: math.fsum(values) / draws for name, values in found.items()}
