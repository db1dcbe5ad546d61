"""Convolutions of 3 x 3 by Winograd's minimal filtering (csrc/cpu_winograd.h), on CPUs and where that is faster.

A quarter of the products for a result in float32 that is off by 2 to 3 times what plain sums are, about 1e-6 of its
size, and as exact as theirs in bfloat16. Everything else goes to torch.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from noisegan.ext import params, reference, toolchain
from noisegan.ext.host import Kernels
from noisegan.ext.layout import layout, layout_of

WIDTH = 32
"""Channels are multiples of this (csrc/cpu_winograd.h: kColumns)."""
CHUNK = 128
"""Tiles that are summed by themselves in the weights' gradient (csrc/cpu_winograd.h: kTileChunk)."""
TILE_PIXELS = {torch.float32: 6.4, torch.bfloat16: 12.8}
"""As many pixels as torch convolves while a tile of 4 x 4 takes: measured with AVX-512 and 64 to 256 channels. With
AVX2 alone torch is slower by more."""
WEIGHT_TILES = 16
"""As many tiles as take the time of transforming the weights, or back."""


def convolution(kernels: Kernels, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    fits = x.ndim == 4 and x.shape[1] == weight.shape[1] and layout_of(x, weight) == torch.channels_last
    if not fits or not _pays(kernels, x, weight, len(weight), weight.shape[2:], stride, padding):
        return reference.convolution(x, weight, stride, padding)
    k, c, h, w = weight.stride()
    return _convolve(kernels, x, len(weight), weight.data_ptr(), (k, c, h, w))


def convolution_input(
    kernels: Kernels, g: Tensor, weight: Tensor, size: Sequence[int], stride: int, padding: int
) -> Tensor:
    fits = g.ndim == 4 and (g.shape[1], *g.shape[2:]) == (len(weight), *size)
    fits = fits and layout_of(g, weight) == torch.channels_last
    if not fits or not _pays(kernels, g, weight, weight.shape[1], weight.shape[2:], stride, padding):
        return reference.convolution_input(g, weight, size, stride, padding)
    # A convolution with the channels exchanged and the kernel turned: from its last number backwards.
    k, c, h, w = weight.stride()
    last = weight.data_ptr() + 2 * (h + w) * weight.itemsize
    return _convolve(kernels, g, weight.shape[1], last, (c, k, -h, -w))


def convolution_weight(
    kernels: Kernels, x: Tensor, g: Tensor, kernel: Sequence[int], stride: int, padding: int
) -> Tensor:
    fits = x.ndim == 4 and (len(x), *x.shape[2:]) == (len(g), *g.shape[2:]) and layout(x) == torch.channels_last
    if not fits or not _pays(kernels, x, g, g.shape[1], kernel, stride, padding):
        return reference.convolution_weight(x, g, kernel, stride, padding)
    (n, c, h, w), k = x.shape, g.shape[1]
    x, g = (maps.contiguous(memory_format=torch.channels_last) for maps in (x, g))
    weight = torch.empty((k, c, 3, 3), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    room = torch.empty(36 * (CHUNK * (c + k) + c * k + 48) + 16, dtype=torch.float32, device=x.device)
    addresses = (maps.data_ptr() for maps in (x, g, weight, room))
    what = params.WinogradWeight(*addresses, n, h, w, c, k, torch.get_num_threads())
    kernels.launch(what, x.dtype, x.device)
    return weight


def _convolve(kernels: Kernels, x: Tensor, k: int, weight: int, steps: tuple[int, int, int, int]) -> Tensor:
    """
    Args:
        weight: address of the first number.
        steps: in elements, between results, channels, rows and columns of the weight.
    """
    n, c, h, w = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty((n, k, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    room = torch.empty(36 * (c + 1) * k + 16, dtype=torch.float32, device=x.device)
    addresses = (x.data_ptr(), weight, y.data_ptr(), room.data_ptr())
    what = params.Winograd(*addresses, *steps, n, h, w, c, k, torch.get_num_threads())
    kernels.launch(what, x.dtype, x.device)
    return y


def _pays(kernels: Kernels, x: Tensor, other: Tensor, k: int, kernel: Sequence[int], stride: int, padding: int) -> bool:
    """Whether a convolution of x to k channels can be done, and is faster than torch's; what does not fit together is
    torch's to refuse."""
    if not kernels.convolves or stride != 1 or padding != 1 or tuple(kernel) != (3, 3):
        return False
    if x.shape[1] % WIDTH or k % WIDTH or x.dtype not in _dtypes() or other.dtype != x.dtype:
        return False
    n, _, h, w = x.shape
    tiles = n * -(-h // 4) * -(-w // 4)
    return TILE_PIXELS[x.dtype] * (tiles + WEIGHT_TILES) < n * h * w


@cache
def _dtypes() -> tuple[torch.dtype, ...]:
    """Those in which it is faster here: with matrix units for bfloat16 torch's own is; off x86 nobody has measured."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ()
    matrix_units = any(feature.startswith("amx") for feature in toolchain.processor_features())
    return (torch.float32,) if matrix_units else (torch.float32, torch.bfloat16)
