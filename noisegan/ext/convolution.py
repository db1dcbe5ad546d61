"""Convolutions whose second derivatives cost no more than their first.

R1 and path length differentiate a backward pass. torch's own formulas do that with kernels as large as the maps, and
channel by channel where there is a stride: a quarter of the time of R1. But a convolution is linear in its maps and in
its weights, so each derivative of any order is one of three operations, and each of these differentiates into the other
two:

    convolution         y = x * w
    convolution_input   gradient of <g, x * w> with respect to x, from g and w
    convolution_weight  gradient of <g, x * w> with respect to w, from x and g

The second is the transposed convolution. Called by this name it is also 1.3 to 2.4 times faster in bfloat16 on a CPU
than torch's conv_transpose2d (measured with AMX, 4 to 32 px). On CPUs those of 3 x 3 without a stride are noisegan's
own where that is faster (noisegan/ext/winograd.py); all others are torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from noisegan.ext import reference, winograd
from noisegan.ext.declare import declare, differentiable
from noisegan.ext.layout import layout, layout_of

_weights_wanted = True


def conv2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """x [N, I, H, W], weight [O, I, k, k] -> [N, O, (H + 2 padding - k) // stride + 1, likewise for W]."""
    y: Tensor = _convolution(x, weight, stride, padding)
    return y


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int) -> Tensor:
    """x [N, I, H, W], weight [I, O, k, k] -> [N, O, (H - 1) stride + k, likewise for W]."""
    size = [(length - 1) * stride + kernel for length, kernel in zip(x.shape[2:], weight.shape[2:], strict=True)]
    y: Tensor = _convolution_input(x, weight, size, stride, 0)
    return y


def pointwise(x: Tensor, matrices: Tensor) -> Tensor:
    """A 1 x 1 convolution with weights of its own for each sample.

    Its gradient in x lies as x does. That of `torch.bmm` lies as rows of pixels, and costs more than the product where
    it meets gradients of convolutions, which are channels_last.

    Args:
        x: [N, I, H, W].
        matrices: [N, O, I], for few O.

    Returns:
        [N, O, H, W], as rows of pixels.
    """
    y: Tensor = _Pointwise.apply(x, matrices)
    return y


@contextmanager
def input_gradients_only() -> Iterator[None]:
    """While this lasts, backward passes leave the gradients of weights out: for `torch.autograd.grad` with respect to
    images or styles, which would compute and drop them. It holds for all threads, as a GPU's backward pass runs in
    threads of its own: two trainers in two threads of one process are not possible."""
    global _weights_wanted
    before, _weights_wanted = _weights_wanted, False
    try:
        yield
    finally:
        _weights_wanted = before


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrices: Tensor) -> Tensor:
        ctx.save_for_backward(x, matrices)
        return torch.bmm(matrices, x.flatten(2)).view(len(x), -1, *x.shape[2:])  # flat without a copy in either layout

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, matrices = ctx.saved_tensors
        rows = g.flatten(2)  # [N, O, H W]
        gx = gmatrices = None
        if ctx.needs_input_grad[0] and layout(x) == torch.channels_last:
            gx = torch.bmm(rows.transpose(1, 2), matrices).transpose(1, 2).view(x.shape)
        elif ctx.needs_input_grad[0]:
            gx = torch.bmm(matrices.transpose(1, 2), rows).view(x.shape)
        if ctx.needs_input_grad[1]:
            gmatrices = torch.bmm(rows, x.flatten(2).transpose(1, 2))
        return gx, gmatrices


def _of_weights(upstream: Tensor) -> bool:
    """Whether a pass back makes the gradients of weights. A compiler's always does, which hands no plain tensors: where
    its graph will run is not known."""
    return _weights_wanted or type(upstream) is not Tensor


def _convolution_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, *ctx.how = inputs
    ctx.save_for_backward(x, weight)


def _convolution_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    gx = gweight = None
    if ctx.needs_input_grad[0]:
        gx = _convolution_input(g, weight, x.shape[2:], *ctx.how)
    if ctx.needs_input_grad[1] and _of_weights(g):
        gweight = _convolution_weight(x, g, weight.shape[2:], *ctx.how)
    return gx, gweight, None, None


def _convolution_input_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, weight, _, *ctx.how = inputs
    ctx.save_for_backward(g, weight)


def _convolution_input_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    g, weight = ctx.saved_tensors
    gg = gweight = None
    if ctx.needs_input_grad[0]:
        gg = _convolution(v, weight, *ctx.how)
    if ctx.needs_input_grad[1] and _of_weights(v):
        gweight = _convolution_weight(v, g, weight.shape[2:], *ctx.how)
    return gg, gweight, None, None, None


def _convolution_weight_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, g, _, *ctx.how = inputs
    ctx.save_for_backward(x, g)


def _convolution_weight_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    x, g = ctx.saved_tensors
    gx = gg = None
    if ctx.needs_input_grad[0]:
        gx = _convolution_input(g, v, x.shape[2:], *ctx.how)
    if ctx.needs_input_grad[1]:
        gg = _convolution(x, v, *ctx.how)
    return gx, gg, None, None, None


def _convolution_fake(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    size = [
        (length + 2 * padding - kernel) // stride + 1
        for length, kernel in zip(x.shape[2:], weight.shape[2:], strict=True)
    ]
    return x.new_empty(x.shape[0], weight.shape[0], *size).to(memory_format=layout_of(x, weight))


def _convolution_input_fake(g: Tensor, weight: Tensor, size: Sequence[int], stride: int, padding: int) -> Tensor:
    return g.new_empty(g.shape[0], weight.shape[1], *size).to(memory_format=layout_of(g, weight))


def _convolution_weight_fake(x: Tensor, g: Tensor, kernel: Sequence[int], stride: int, padding: int) -> Tensor:
    return x.new_empty(g.shape[1], x.shape[1], *kernel).to(memory_format=layout(x))


_DECLARED: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "convolution": ("(Tensor x, Tensor weight, int stride, int padding) -> Tensor", _convolution_fake),
    "convolution_input": (
        "(Tensor g, Tensor weight, SymInt[] size, int stride, int padding) -> Tensor",
        _convolution_input_fake,
    ),
    "convolution_weight": (
        "(Tensor x, Tensor g, SymInt[] kernel, int stride, int padding) -> Tensor",
        _convolution_weight_fake,
    ),
}
for _name, (_schema, _fake) in _DECLARED.items():
    declare(_name, _schema, _fake, getattr(reference, _name), getattr(winograd, _name))

_convolution = differentiable("convolution", _convolution_backward, _convolution_setup)
_convolution_input = differentiable("convolution_input", _convolution_input_backward, _convolution_input_setup)
_convolution_weight = differentiable("convolution_weight", _convolution_weight_backward, _convolution_weight_setup)
