"""Convolutions whose second derivatives cost no more than their first.

R1 and path length differentiate a backward pass. torch's own formulas do that with kernels as large as the maps, and
channel by channel where there is a stride: a third of the time of R1. But a convolution is linear in the maps and
linear in the weights, so every derivative of every order is one of three operations: the convolution, its gradient with
respect to the maps, its gradient with respect to the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_Settings = tuple[list[int], list[int], list[int], bool, list[int], int]
"""stride, padding, dilation, transposed, output padding, groups: as aten takes them."""

_weights_wanted = True


def conv2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """x [N, I, H, W], weight [O, I, k, k] -> [N, O, (H + 2 padding - k) // stride + 1, likewise for W]."""
    return _convolution(x, weight, ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1))


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int) -> Tensor:
    """x [N, I, H, W], weight [I, O, k, k] -> [N, O, (H - 1) stride + k, likewise for W]."""
    return _convolution(x, weight, ([stride] * 2, [0, 0], [1, 1], True, [0, 0], 1))


@contextmanager
def input_gradients_only() -> Iterator[None]:
    """While this lasts, backward passes leave the gradients of weights out: for `torch.autograd.grad` with respect to
    images or styles, which would compute and drop them."""
    global _weights_wanted
    before, _weights_wanted = _weights_wanted, False
    try:
        yield
    finally:
        _weights_wanted = before


def _convolution(x: Tensor, weight: Tensor, settings: _Settings) -> Tensor:
    y: Tensor = _Convolution.apply(x, weight, settings)
    return y


def _gradients(g: Tensor, x: Tensor, weight: Tensor, settings: _Settings, of_x: bool, of_weight: bool) -> Any:
    return _Gradients.apply(g, x, weight, settings, of_x, of_weight)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, settings: _Settings) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        y: Tensor = torch.ops.aten.convolution(x, weight, None, *settings)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1] and _weights_wanted
        return (*_gradients(g, x, weight, ctx.settings, of_x, of_weight), None)


class _Gradients(torch.autograd.Function):
    """Gradients of <g, convolution(x, weight)> with respect to x and weight; None where not asked for."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, settings: _Settings, of_x: bool, of_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(g, x, weight)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        gx, gweight, _ = torch.ops.aten.convolution_backward(g, x, weight, None, *settings, [of_x, of_weight, False])
        return gx, gweight

    @staticmethod
    def backward(ctx: Any, v_x: Tensor | None, v_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        g, x, weight = ctx.saved_tensors
        of_g, of_x, of_weight, *_ = ctx.needs_input_grad
        gg = gx = gweight = None
        if of_g and v_x is not None:
            gg = _convolution(v_x, weight, ctx.settings)
        if of_g and v_weight is not None:
            other = _convolution(x, v_weight, ctx.settings)
            gg = other if gg is None else gg + other
        if of_x and v_weight is not None:
            gx = _gradients(g, x, v_weight, ctx.settings, True, False)[0]
        if of_weight and v_x is not None and _weights_wanted:
            gweight = _gradients(g, v_x, weight, ctx.settings, False, True)[1]
        return gg, gx, gweight, None, None, None
