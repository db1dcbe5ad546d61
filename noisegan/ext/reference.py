"""Plain-PyTorch twins of the declared operations (noisegan/ext/ops.py), in the fastest forms torch has on a CPU.

They compute in the type of arithmetic (float64 for float64, else float32) and round once. None but `upfirdn2d` is
meant to be differentiated: derivatives are registered with the operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from noisegan.ext import philox as plain
from noisegan.ext.layout import arithmetic, layout, per_channel


def bias_act(
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
    """clamp(gain lrelu(x scale + strength noise + bias)); arguments as in `noisegan.ext.ops`."""
    u = torch.empty_like(x, dtype=arithmetic(x.dtype), memory_format=layout(x))
    if scale is None:
        u.copy_(x)
    else:
        torch.mul(x, per_channel(scale, x).to(u.dtype), out=u)
    if ids is not None and step is not None:
        noise = drawn(ids, step, address, x)
    if noise is not None and strength is not None:
        u.addcmul_(strength.to(u.dtype), noise.to(u.dtype))
    if bias is not None:
        u.add_(per_channel(bias[None], x))
    if slope != 1:
        F.leaky_relu_(u, slope)
    if gain != 1:
        u.mul_(gain)
    if clamp < math.inf:
        u.clamp_(-clamp, clamp)
    return u.to(x.dtype)


def bias_act_(x: Tensor, *operands: Any) -> None:
    """`bias_act`, written over x."""
    x.copy_(bias_act(x, *operands))


def bias_act_grad(
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
    """h = g times the activation's derivative; (h scale, sums of h, of h x, of h noise over pixels [N, C] or [0], sum
    of weight h over channels [N, 1, ...] or [0])."""
    h = _through_activation(g, y, slope, gain, clamp)
    pixels = tuple(range(2, g.ndim))
    if ids is not None and step is not None:
        noise = drawn(ids, step, address, g)
    sums = [
        _sum(h, pixels) if sum_h else h.new_empty(0),
        _sum(h * x, pixels) if x is not None else h.new_empty(0),
        _sum(h * noise, pixels) if noise is not None else h.new_empty(0),
    ]
    of_c = _channel_sum(h, weight) if sum_c else h.new_empty(0)
    gx = h if scale is None else h * per_channel(scale, g)
    return gx.to(g.dtype), sums[0], sums[1], sums[2], of_c


def channel_sum(g: Tensor, y: Tensor | None, weight: Tensor | None, slope: float, gain: float, clamp: float) -> Tensor:
    """Sum over channels of weight h, [N, 1, ...] in the type of arithmetic."""
    return _channel_sum(_through_activation(g, y, slope, gain, clamp), weight)


def drawn(ids: Tensor, step: Tensor, address: Sequence[int], like: Tensor) -> Tensor:
    """One map of normals per sample from the stream (key 0, key 1, first block), [N, 1, H, W]."""
    key0, key1, first_block = address
    count = math.prod(like.shape[2:])
    values = plain.philox_normal((key0, key1), step, ids, count, first_block=first_block)
    return values.view(len(ids), 1, *like.shape[2:]).to(arithmetic(like.dtype))


def _through_activation(g: Tensor, y: Tensor | None, slope: float, gain: float, clamp: float) -> Tensor:
    """h, laid out as y, in the type of arithmetic."""
    leader = g if y is None else y
    h = torch.empty_like(leader, dtype=arithmetic(g.dtype), memory_format=layout(leader)).copy_(g)
    if y is not None and slope != 1:
        torch.ops.aten.leaky_relu_backward.grad_input(h, y.to(h.dtype), slope, True, grad_input=h)
    if gain != 1:
        h.mul_(gain)
    if y is not None and clamp < math.inf:
        h.masked_fill_(y.abs() >= clamp, 0)
    return h


def _channel_sum(h: Tensor, weight: Tensor | None) -> Tensor:
    if weight is not None:
        h = h * per_channel(weight.to(h.dtype), h)
    return h.sum(dim=1, keepdim=True)


def _sum(values: Tensor, pixels: tuple[int, ...]) -> Tensor:
    return values.sum(dim=pixels) if pixels else values.clone()


def upfirdn2d(x: Tensor, f: Tensor, up: int, down: int, padding: Sequence[int], flip: bool, gain: float) -> Tensor:
    """The resampling of `noisegan.ext.upfirdn2d`, differentiable to any order in x and f."""
    if x.dtype != arithmetic(x.dtype):
        # 16 bits would round the filter, too; transposed depthwise convolutions in them take a CPU ten times as long.
        return upfirdn2d(x.float(), f.float(), up, down, padding, flip, gain).to(x.dtype)
    if f.ndim == 1:
        f = torch.outer(f, f)
    f = (f if flip else f.flip(0, 1)).to(x.dtype) * gain
    x0, x1, y0, y1 = padding
    channels = x.shape[1]
    if up == 1:
        if x0 == x1 >= 0 and y0 == y1 >= 0:  # the convolution pads by itself, without a copy
            return F.conv2d(x, f.expand(channels, 1, *f.shape), stride=down, padding=(y0, x0), groups=channels)
        return F.conv2d(F.pad(x, (x0, x1, y0, y1)), f.expand(channels, 1, *f.shape), stride=down, groups=channels)
    # A transposed convolution skips the inserted zeros. It yields the full convolution of the upsampled map (less the
    # zeros after the last sample), of which `padding` wants more or less at each end.
    kh, kw = f.shape
    kernel = f.flip(0, 1).expand(channels, 1, kh, kw)
    top, left = y0 - kh + 1, x0 - kw + 1
    bottom, right = y1 - (kh - up), x1 - (kw - up)
    if top == bottom <= 0 and left == right <= 0:
        x = F.conv_transpose2d(x, kernel, stride=up, padding=(-top, -left), groups=channels)
    else:
        x = F.pad(F.conv_transpose2d(x, kernel, stride=up, groups=channels), (left, right, top, bottom))
    return x[:, :, ::down, ::down] if down > 1 else x


def philox(ids: Tensor, step: Tensor, address: Sequence[int], count: int, kind: int) -> Tensor:
    """Kind 0: words, int64; 1: uniforms, 2: normals, float32. [N, count]."""
    key0, key1, first_block = address
    draw = (plain.philox_bits, plain.philox_uniform, plain.philox_normal)[kind]
    return draw((key0, key1), step, ids, count, first_block=first_block).contiguous()


def convolution(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    y: Tensor = torch.ops.aten.convolution(x, weight, None, *_settings(stride, padding))
    return y


def convolution_input(g: Tensor, weight: Tensor, size: Sequence[int], stride: int, padding: int) -> Tensor:
    # Of the maps only the shape matters.
    x = torch.empty((len(g), weight.shape[1], *size), dtype=g.dtype, device=g.device, memory_format=layout(g))
    return _convolution_backward(g, x, weight, stride, padding, 0)


def convolution_weight(x: Tensor, g: Tensor, kernel: Sequence[int], stride: int, padding: int) -> Tensor:
    return _convolution_backward(g, x, x.new_empty(g.shape[1], x.shape[1], *kernel), stride, padding, 1)


def _convolution_backward(g: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, which: int) -> Tensor:
    """The gradient with respect to the maps (0) or the weights (1)."""
    wanted = [which == 0, which == 1, False]
    how = _settings(stride, padding)
    gradient: Tensor = torch.ops.aten.convolution_backward(g, x, weight, None, *how, wanted)[which]
    return gradient


def _settings(stride: int, padding: int) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
    """Stride, padding, dilation, transposed, output padding, groups: as aten takes them."""
    return [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1
