"""What the CPU library and the CUDA kernels share: results are allocated, a kernel's struct is filled, it is launched.

Signatures are those of `noisegan.ext.reference`, after the kernels. Side operands are handed over in the type of
arithmetic; feature maps as they lie, rows of pixels or channels_last.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from noisegan.ext import params
from noisegan.ext.layout import arithmetic, layout, resampled_size


class Kernels(Protocol):
    """Compiled kernels of one kind of device."""

    name: str
    sums_channels: bool
    """Whether the kernel for `bias_act_grad` makes sums over channels, too, as that of the CPU library."""
    convolves: bool
    """Whether there are kernels for convolutions, too (noisegan/ext/winograd.py)."""

    def launch(self, what: ctypes.Structure, dtype: torch.dtype, device: torch.device) -> None:
        """Run the kernel that `what` belongs to on maps of `dtype`; on CUDA on the current stream, without waiting."""
        ...


CHUNK = 16384
"""Numbers behind the partial sums of one chunk. Fixed, so that sums do not depend on the number of threads."""
MAP_CHUNK, FEW_JOBS = 4096, 8
"""Pixels of a chunk at most where channels are summed beside (csrc/cpu_grad.h: kMapChunk); fewer for few samples, down
to a quarter, as long as there are no more jobs than these."""


def bias_act(
    kernels: Kernels,
    x: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    noise: Tensor | None,
    ids: Tensor | None,
    step: Tensor | None,
    address: Sequence[int],
    strength: Tensor | None,
    slope: float,
    gain: float,
    clamp: float,
) -> Tensor:
    form = layout(x)
    x = x.contiguous(memory_format=form)
    y = torch.empty_like(x, memory_format=form)
    _bias_act(kernels, x, y, scale, bias, noise, ids, step, address, strength, slope, gain, clamp)
    return y


def bias_act_(kernels: Kernels, x: Tensor, *operands: Any) -> None:
    dense = x.contiguous(memory_format=layout(x))
    _bias_act(kernels, dense, dense, *operands)
    if dense is not x:
        x.copy_(dense)


def _bias_act(
    kernels: Kernels,
    x: Tensor,
    y: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    noise: Tensor | None,
    ids: Tensor | None,
    step: Tensor | None,
    address: Sequence[int],
    strength: Tensor | None,
    slope: float,
    gain: float,
    clamp: float,
) -> None:
    """From x to y, which may be the same tensor."""
    side = arithmetic(x.dtype)
    scale, bias, strength, noise = _dense(scale, side), _dense(bias, side), _operand(strength, x), _operand(noise, x)
    ids, step = _dense(ids, torch.int64), _dense(step, torch.int64)
    what = params.BiasAct(
        x.data_ptr(),
        y.data_ptr(),
        _address(scale),
        _address(bias),
        _address(strength),
        *((0, 0, 0) if strength is None else _strides(strength)),
        _noise(noise, ids, step, address),
        *_map(x),
        slope,
        gain,
        clamp,
        layout(x) == torch.channels_last,
        torch.get_num_threads(),
    )
    kernels.launch(what, x.dtype, x.device)


def bias_act_grad(
    kernels: Kernels,
    g: Tensor,
    y: Tensor | None,
    x: Tensor | None,
    scale: Tensor | None,
    noise: Tensor | None,
    ids: Tensor | None,
    step: Tensor | None,
    address: Sequence[int],
    sum_h: bool,
    sum_c: bool,
    weight: Tensor | None,
    slope: float,
    gain: float,
    clamp: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    side = arithmetic(g.dtype)
    form = layout(g if y is None else y)
    g = g.contiguous(memory_format=form)
    y = None if y is None else y.contiguous(memory_format=form)
    x = None if x is None else x.to(g.dtype).contiguous(memory_format=form)
    scale, noise = _dense(scale, side), _operand(noise, g)
    ids, step = _dense(ids, torch.int64), _dense(step, torch.int64)
    gx = torch.empty_like(g, memory_format=form)
    n, c, pixels = _map(g)
    chunks = max(1, pixels * (c if form == torch.channels_last else 1) // CHUNK)
    wanted = (sum_h, x is not None, noise is not None or ids is not None)
    beside = sum_c and kernels.sums_channels
    if beside:
        fewest = -(-pixels // MAP_CHUNK)
        chunks = max(chunks, fewest, min(fewest * 4, FEW_JOBS // max(n, 1)))
        weight = None if weight is None else weight.to(side)
        of_c = g.new_empty(n, 1, *g.shape[2:], dtype=side)
    elif sum_c:
        of_c = channel_sum(kernels, g, y, weight, slope, gain, clamp)
    else:
        of_c = g.new_empty(0, dtype=side)
    # A single chunk needs no sum over chunks.
    sums = [g.new_empty(((n, c) if chunks == 1 else (n, chunks, c)) if flag else 0, dtype=side) for flag in wanted]
    what = params.BiasActGrad(
        g.data_ptr(),
        _address(y),
        _address(x),
        gx.data_ptr(),
        _address(scale),
        *(_address(total) if flag else None for total, flag in zip(sums, wanted, strict=True)),
        of_c.data_ptr() if beside else None,
        _address(weight) if beside else None,
        *((0, 0) if weight is None else _steps(weight)),
        _noise(noise, ids, step, address),
        n,
        c,
        pixels,
        chunks,
        slope,
        gain,
        clamp,
        form == torch.channels_last,
        torch.get_num_threads(),
    )
    kernels.launch(what, g.dtype, g.device)
    of_h, of_hx, of_he = (
        total.sum(dim=1) if flag and chunks > 1 else total for total, flag in zip(sums, wanted, strict=True)
    )
    return gx, of_h, of_hx, of_he, of_c


def channel_sum(
    kernels: Kernels, g: Tensor, y: Tensor | None, weight: Tensor | None, slope: float, gain: float, clamp: float
) -> Tensor:
    form = layout(g if y is None else y)
    g = g.contiguous(memory_format=form)
    y = None if y is None else y.contiguous(memory_format=form)
    weight = None if weight is None else weight.to(arithmetic(g.dtype))
    out = g.new_empty(g.shape[0], 1, *g.shape[2:], dtype=arithmetic(g.dtype))
    what = params.ChannelSum(
        g.data_ptr(),
        _address(y),
        _address(weight),
        *((0, 0) if weight is None else _steps(weight)),
        out.data_ptr(),
        *_map(g),
        slope,
        gain,
        clamp,
        form == torch.channels_last,
        torch.get_num_threads(),
    )
    kernels.launch(what, g.dtype, g.device)
    return out


def upfirdn2d(
    kernels: Kernels, x: Tensor, f: Tensor, up: int, down: int, padding: Sequence[int], flip: bool, gain: float
) -> Tensor:
    form = layout(x)
    x = x.contiguous(memory_format=form)
    f = f.to(arithmetic(x.dtype)).contiguous()
    oh, ow = resampled_size(x, f, up, down, padding)
    y = torch.empty((*x.shape[:2], oh, ow), dtype=x.dtype, device=x.device, memory_format=form)
    what = params.UpFirDn(
        x.data_ptr(),
        y.data_ptr(),
        f.data_ptr(),
        *x.shape,
        oh,
        ow,
        padding[0],
        padding[2],
        gain,
        f.shape[0],
        f.shape[-1],
        up,
        down,
        f.ndim == 1,
        flip,
        form == torch.channels_last,
        torch.get_num_threads(),
    )
    kernels.launch(what, x.dtype, x.device)
    return y


def philox(kernels: Kernels, ids: Tensor, step: Tensor, address: Sequence[int], count: int, kind: int) -> Tensor:
    ids = ids.contiguous()
    out = torch.empty(len(ids), count, dtype=torch.float32 if kind else torch.int64, device=ids.device)
    addresses = (ids.data_ptr(), step.data_ptr(), out.data_ptr())
    what = params.Philox(*addresses, len(ids), count, *address, kind, torch.get_num_threads())
    kernels.launch(what, out.dtype, ids.device)
    return out


def _map(x: Tensor) -> tuple[int, int, int]:
    """Samples, channels, pixels."""
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _dense(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if x is None or (x.dtype == dtype and x.is_contiguous()):  # asking is cheaper than a call that changes nothing
        return x
    return x.to(dtype).contiguous()


def _operand(x: Tensor | None, like: Tensor) -> Tensor | None:
    """A noise or strength in the type of arithmetic, its pixels one stride apart or all the same."""
    if x is None:
        return None
    side = arithmetic(like.dtype)
    x = x if x.dtype == side else x.to(side)
    if x.shape[2:].numel() == 1 or (x.shape[2:] == like.shape[2:] and x.is_contiguous()):
        return x
    if x.shape[2:] != like.shape[2:]:
        x = x.expand(*x.shape[:2], *like.shape[2:])
    collapsible = all(
        x.stride(axis) == x.stride(axis + 1) * x.shape[axis + 1] for axis in range(2, x.ndim - 1) if x.shape[axis] > 1
    )
    return x if collapsible else x.contiguous()


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Steps in elements between samples, channels and pixels; 0 where broadcast."""
    return *_steps(x), 0 if x.shape[2:].numel() == 1 else x.stride(-1) if x.shape[-1] > 1 else x.stride(-2)


def _steps(x: Tensor) -> tuple[int, int]:
    """Steps in elements between samples and channels; 0 where broadcast."""
    return 0 if x.shape[0] == 1 else x.stride(0), 0 if x.shape[1] == 1 else x.stride(1)


def _noise(noise: Tensor | None, ids: Tensor | None, step: Tensor | None, address: Sequence[int]) -> params.Noise:
    if noise is not None:
        return params.Noise(noise.data_ptr(), *_strides(noise))
    if ids is not None and step is not None:
        return params.Noise(None, 0, 0, 0, ids.data_ptr(), step.data_ptr(), *address)
    return params.Noise()
