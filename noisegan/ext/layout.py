"""How feature maps lie in memory, and which type they are computed in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The type in which maps of `dtype` are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def layout(x: Tensor) -> torch.memory_format:
    """The layout of results for `x`: its own where it is dense, else rows of pixels."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def layout_of(*tensors: Tensor) -> torch.memory_format:
    """The layout of a convolution's results: channels_last if that of maps or weights is."""
    last = any(layout(x) == torch.channels_last for x in tensors)
    return torch.channels_last if last else torch.contiguous_format


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """[N or 1, C or 1] -> [N or 1, C or 1, 1, ...], to broadcast over the pixels of `like`."""
    return values.view(*values.shape, *[1] * (like.ndim - 2))


def resampled_size(x: Tensor, f: Tensor, up: int, down: int, padding: Sequence[int]) -> tuple[int, int]:
    """Height and width of a map after up, pad, filter, down."""
    x0, x1, y0, y1 = padding
    height = x.shape[2] * up + y0 + y1 - f.shape[0]
    width = x.shape[3] * up + x0 + x1 - f.shape[-1]
    return height // down + 1, width // down + 1
