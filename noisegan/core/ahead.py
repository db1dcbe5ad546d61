"""What becomes of a feature map behind an injector, for those that look ahead (`noisegan.api.Ahead`)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from noisegan.api import Ahead, Reader
from noisegan.core.layers import demodulation
from noisegan.ext import upfirdn2d

Following = Callable[[], tuple[Reader, ...]]
"""What reads a map, worked out when an injector asks for it; `tuple` where nothing does."""

_SLOPE = 0.2
"""Of the leaky ReLU below zero (Karras et al. 2020)."""


def activated(scale: Tensor, bias: Tensor, gain: float, readers: tuple[Reader, ...]) -> Ahead:
    """Of a map that meets bias and activation, times `gain`; scale [N, C] multiplies it before."""
    return Ahead(scale=scale, bias=bias, slope=_SLOPE, gain=math.sqrt(2) * gain, readers=readers)


def linear(like: Tensor, readers: tuple[Reader, ...]) -> Ahead:
    """Of a map that is read as it is; like [N, C]."""
    return Ahead(scale=torch.ones_like(like), bias=torch.zeros_like(like[0]), slope=1.0, gain=1.0, readers=readers)


def convolution(weight: Tensor, style: Tensor, f: Tensor, *, up: int) -> Reader:
    """A modulated convolution, weight [O, C, 3, 3], style [N, C]; up 2 doubles the resolution, filtered by f."""
    # Up, a pixel sets the kernel down on the finer grid, where the filter spreads it: [O, C, 6, 6]. Else an output
    # takes what is to its right by the right of the kernel, so that a pixel sees the kernel mirrored.
    around = upfirdn2d(weight, f, padding=(3, 3, 3, 3), gain=4) if up == 2 else weight.flip(2, 3)
    return Reader(weight=around, style=style, demod=demodulation(weight, style, up=up))


def pointwise(weight: Tensor, style: Tensor) -> Reader:
    """`torgb`: weight [O, C, 1, 1] and style [N, C] without demodulation."""
    return Reader(weight=weight, style=style, demod=style.new_ones(len(style), len(weight)))


def shortcut(weight: Tensor, f: Tensor, batch: int) -> Reader:
    """A convolution of [O, C, 1, 1] that is not modulated, followed by doubling the resolution."""
    stamp = 4 * torch.outer(f, f)  # [4, 4]
    outputs, channels = weight.shape[:2]
    return Reader(weight=weight * stamp, style=weight.new_ones(batch, channels), demod=weight.new_ones(batch, outputs))
