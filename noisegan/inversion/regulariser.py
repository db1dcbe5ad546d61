"""What keeps optimised noise noise: autocorrelation over a pyramid, and renormalisation (Karras et al. 2020, app. D).

A noise map n of size r x r, and its averages over 2 x 2 pixels times 2 (so that white noise keeps its variance) down to
8 x 8, give

    L = sum over levels of  (1/r^2 sum_xy n(x, y) n(x - 1, y))^2 + (1/r^2 sum_xy n(x, y) n(x, y - 1))^2

with edges that wrap. Each coefficient has mean zero and variance 1 / r^2 on white noise, so L is 2 / r^2 per level on
average: an image hidden in the map raises it by orders of magnitude. Every channel of a drawn tensor is a map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

COARSEST = 8
"""Size at which the pyramid ends."""
SMALLEST_MAP = 4
"""Two equal last dimensions from this size on are a map; smaller ones are numbers without neighbours."""
FEW = 16
"""Below so many numbers, mean and variance are no constraint to impose: one number would always be zero."""


def is_map(shape: tuple[int, ...]) -> bool:
    """Whether a sample's noise [..., H, W] is made of maps."""
    return len(shape) >= 2 and shape[-1] == shape[-2] >= SMALLEST_MAP


def autocorrelation(noises: Iterable[Tensor]) -> Tensor:
    """The sum of L over all maps of all tensors, per sample.

    Args:
        noises: noise tensors [N, ..., H, W] that are maps. Those of one size, and what the pyramid brings down to it,
            are taken together: thirty small operations cost as much as one image.

    Returns:
        [N]; zero-dimensional zero for no tensor.
    """
    levels: dict[int, list[Tensor]] = {}
    for noise in noises:
        levels.setdefault(noise.shape[-1], []).append(noise.flatten(1, -3) if noise.ndim > 3 else noise[:, None])
    total: Tensor | None = None
    while levels:
        size = max(levels)
        maps = torch.cat(levels.pop(size), dim=1)  # [N, M, r, r]
        along = [(maps * maps.roll(1, dims=dim)).mean(dim=(2, 3)).square() for dim in (2, 3)]  # [N, M]
        term = (along[0] + along[1]).sum(dim=1)
        total = term if total is None else total + term
        if size > COARSEST:
            levels.setdefault(size // 2, []).append(F.avg_pool2d(maps, 2) * 2)
    return torch.zeros(()) if total is None else total


def renormalised(noise: Tensor) -> Tensor:
    """Optimised noise [N, ...] back where standard normal draws lie.

    A map, per channel, and any other sixteen numbers or more of a sample get zero mean and unit variance. Fewer numbers
    d are shortened to the length sqrt(d) + 2, which a normal draw exceeds once in fifty times or less.
    """
    dims: tuple[int, ...]
    if is_map(tuple(noise.shape[1:])):
        dims = (-2, -1)
    elif math.prod(noise.shape[1:]) >= FEW:
        dims = tuple(range(1, noise.ndim))
    else:
        count = math.prod(noise.shape[1:])
        length = torch.linalg.vector_norm(noise.flatten(1), dim=1).view(-1, *[1] * (noise.ndim - 1))
        shortened: Tensor = noise * ((math.sqrt(count) + 2) / length.clamp_min(1e-12)).clamp_max(1)
        return shortened
    centred = noise - noise.mean(dim=dims, keepdim=True)
    scaled: Tensor = centred * torch.rsqrt(centred.square().mean(dim=dims, keepdim=True) + 1e-12)
    return scaled
