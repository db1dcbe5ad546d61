"""The operations, each declared once: schema, shapes, derivatives, and the plain-PyTorch twin that any device falls to.

How they find their kernels: noisegan/ext/declare.py. Derivatives are written with the same operations, so they hold to
any order with every backend: R1 and path length differentiate twice.

    bias_act       y = clamp(gain lrelu(x scale + strength noise + bias))
    bias_act_      the same, written over x; without derivatives
    bias_act_grad  h = g times the activation's derivative, read off y; h scale, and sums of h, h x, h noise over pixels
                   and of weight h over channels
    channel_sum    sum over channels of weight h
    upfirdn2d      up, pad, filter, down
    philox         numbers of a stream

noise is a tensor, or one map per sample drawn inside from the stream `address` = (key 0, key 1, first block) for the
sample ids `ids` at `step`, a tensor of one number: a captured CUDA graph draws anew when that has changed. Maps are
[N, C, ...]; scale [N, C]; bias [C]; noise and strength have the dimensions of x, each of its size or 1; clamp is
infinite for none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from noisegan.ext import host, reference
from noisegan.ext.declare import call, declare, differentiable
from noisegan.ext.layout import arithmetic, layout, per_channel, resampled_size

_PASS = (
    "Tensor? scale, Tensor? bias, Tensor? noise, Tensor? ids, Tensor? step, int[] address, Tensor? strength, "
    "float slope, float gain, float clamp"
)
_SCHEMAS = {
    "bias_act": f"(Tensor x, {_PASS}) -> Tensor",
    "bias_act_": f"(Tensor(a!) x, {_PASS}) -> ()",
    "bias_act_grad": "(Tensor g, Tensor? y, Tensor? x, Tensor? scale, Tensor? noise, Tensor? ids, Tensor? step, "
    "int[] address, bool sum_h, bool sum_c, Tensor? weight, float slope, float gain, float clamp) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    "channel_sum": "(Tensor g, Tensor? y, Tensor? weight, float slope, float gain, float clamp) -> Tensor",
    "upfirdn2d": "(Tensor x, Tensor f, int up, int down, int[] padding, bool flip, float gain) -> Tensor",
    "philox": "(Tensor ids, Tensor step, int[] address, int count, int kind) -> Tensor",
}

WORDS, UNIFORM, NORMAL = 0, 1, 2
"""Kinds of numbers that `philox` gives."""


def philox(*arguments: Any) -> Tensor:
    """(ids, step, address, count, kind) -> [N, count]."""
    numbers: Tensor = call("philox", *arguments)
    return numbers


def h_of(g: Tensor, y: Tensor | None, slope: float, gain: float, clamp: float) -> Tensor:
    """g times the activation's derivative."""
    h: Tensor = _bias_act_grad(g, y, None, None, None, None, None, [], False, False, None, slope, gain, clamp)[0]
    return h


def sum_to(values: Tensor, like: Tensor) -> Tensor:
    """Sum over the dimensions along which `like`, of as many dimensions, was broadcast; in its dtype."""
    return values.sum_to_size(like.shape).to(like.dtype)


def drawn(ids: Tensor, step: Tensor, address: Sequence[int], like: Tensor) -> Tensor:
    """The noise that the kernels draw inside: one map of normals per sample, [N, 1, ...] for maps like [N, C, ...]."""
    values: Tensor = philox(ids, step, address, math.prod(like.shape[2:]), NORMAL)
    return values.view(len(ids), 1, *like.shape[2:])


def _bias_act_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, bias, noise, ids, step, ctx.address, strength, *ctx.activation = inputs
    slope, _, clamp = ctx.activation
    needs_scale = ctx.needs_input_grad[1]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        x if needs_scale else None,
        output if slope != 1 or clamp < math.inf else None,
        scale,
        bias,
        noise,
        ids,
        step,
        strength,
    )


def _bias_act_backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
    if g is None:
        return (None,) * 11
    x, y, scale, bias, noise, ids, step, strength = ctx.saved_tensors
    needs_x, needs_scale, needs_bias, needs_noise, _, _, _, needs_strength, *_ = ctx.needs_input_grad
    activation = ctx.activation
    # A strength per channel or coarser takes its gradient from the sums of h e; a map of strengths from h.
    flat = strength is not None and math.prod(strength.shape[2:]) == 1
    sum_he = needs_strength and flat
    of_maps = needs_noise or (needs_strength and not flat)
    one_noise = noise is None or noise.shape[1] == 1
    # With one map of each per sample, channels are summed once for both; with a strength per channel it is the weight.
    sum_c = of_maps and one_noise and (flat or strength.shape[1] == 1)
    gx, h_sums, hx_sums, he_sums, c_sums = _bias_act_grad(
        g,
        y,
        x if needs_scale else None,
        scale,
        noise if sum_he else None,
        ids if sum_he else None,
        step if sum_he else None,
        ctx.address,
        needs_bias,
        sum_c,
        strength.flatten(1) if sum_c and flat else None,
        *activation,
    )
    gnoise, gstrength = None, sum_to(per_channel(he_sums, g), strength) if sum_he else None
    if of_maps:
        h = c_sums if sum_c else h_of(g, y, *activation)
        if needs_noise:
            gnoise = sum_to(h if sum_c and flat else h * strength, noise)
        if needs_strength and not flat:
            gstrength = sum_to(h * (drawn(ids, step, ctx.address, g) if noise is None else noise), strength)
    return (
        gx if needs_x else None,
        hx_sums.to(scale.dtype) if needs_scale else None,
        h_sums.sum(dim=0).to(bias.dtype) if needs_bias else None,
        gnoise if needs_noise else None,
        None,
        None,
        None,
        gstrength if needs_strength else None,
        None,
        None,
        None,
    )


def _bias_act_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    g, y, x, scale, noise, ids, step, ctx.address, _, _, weight, *ctx.activation = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(g, y, x, scale, noise, ids, step, weight)


def _bias_act_grad_backward(
    ctx: Any, v_gx: Tensor | None, v_h: Tensor | None, v_hx: Tensor | None, v_he: Tensor | None, v_c: Tensor | None
) -> tuple[Tensor | None, ...]:
    g, y, x, scale, noise, ids, step, weight = ctx.saved_tensors
    activation = ctx.activation
    needs_g, _, needs_x, needs_scale, needs_noise = ctx.needs_input_grad[:5]
    needs_weight = ctx.needs_input_grad[10] and v_c is not None
    if v_he is not None and noise is None:
        noise = drawn(ids, step, ctx.address, g)
    gg = gscale = gx = gnoise = gweight = None
    if needs_g:
        terms = [
            None if v_gx is None else v_gx if scale is None else scaled(v_gx, scale),
            None if v_h is None else per_channel(v_h, g),
            None if v_hx is None else scaled(x, v_hx),
            None if v_he is None else per_channel(v_he, g) * noise,
            None if v_c is None else v_c if weight is None else v_c * per_channel(weight, g),
        ]
        present = [term for term in terms if term is not None]
        if present:
            gg = h_of(sum(present[1:], present[0]).to(g.dtype).expand_as(g), y, *activation)
    one_noise = noise is not None and noise.shape[1] == 1
    needs_h = needs_x or needs_scale or needs_weight or (needs_noise and not one_noise)
    h = h_of(g, y, *activation) if needs_h else g
    if needs_x and v_hx is not None:
        gx = scaled(h, v_hx)
    if needs_scale and v_gx is not None:
        gscale = scale_sums(v_gx, h).to(scale.dtype)
    if needs_noise and v_he is not None:
        of_noise = _channel_sum(g, y, v_he, *activation) if one_noise else h * per_channel(v_he, g)
        gnoise = sum_to(of_noise, noise)
    if needs_weight and v_c is not None:
        gweight = sum_to(scale_sums(h, v_c.expand_as(g)), weight)
    return gg, None, gx, gscale, gnoise, *[None] * 5, gweight, *[None] * 3


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """x times a factor per sample and channel, [N, C]; multiplied in the type of arithmetic, rounded once."""
    y: Tensor = bias_act(x, scale, None, None, None, None, [], None, 1.0, 1.0, math.inf)
    return y


def scale_sums(a: Tensor, b: Tensor) -> Tensor:
    """Sums of a b over pixels, [N, C]."""
    sums: Tensor = _bias_act_grad(a, None, b, None, None, None, None, [], False, False, None, 1.0, 1.0, math.inf)[2]
    return sums


def _channel_sum_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, y, weight, *ctx.activation = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(g, y, weight)


def _channel_sum_backward(ctx: Any, v: Tensor | None) -> tuple[Tensor | None, ...]:
    if v is None:
        return (None,) * 6
    g, y, weight = ctx.saved_tensors
    gg = gweight = None
    if ctx.needs_input_grad[0]:
        spread = v.expand_as(g) if weight is None else v * per_channel(weight, g)
        gg = h_of(spread.to(g.dtype), y, *ctx.activation)
    if ctx.needs_input_grad[2]:
        gweight = sum_to(scale_sums(h_of(g, y, *ctx.activation), v.expand_as(g)), weight)
    return gg, None, gweight, None, None, None


def _upfirdn2d_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, *ctx.how = inputs
    ctx.size = x.shape[2:]
    ctx.save_for_backward(f)


def _upfirdn2d_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """The adjoint is the same operation with up and down exchanged and the filter turned."""
    (f,) = ctx.saved_tensors
    up, down, (x0, _, y0, _), flip, gain = ctx.how
    (h, w), (oh, ow), (kh, kw) = ctx.size, g.shape[2:], (f.shape[0], f.shape[-1])
    padding = (kw - 1 - x0, (w - 1) * up - ow * down + 1 + x0, kh - 1 - y0, (h - 1) * up - oh * down + 1 + y0)
    return upfirdn2d(g, f, down, up, padding, not flip, gain), *[None] * 6


def _bias_act_fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=layout(x))


def _bias_act__fake(x: Tensor, *_: Any) -> None:
    return None


def _bias_act_grad_fake(
    g: Tensor,
    y: Tensor | None,
    x: Tensor | None,
    scale: Any,
    noise: Any,
    ids: Any,
    step: Any,
    address: Any,
    sum_h: bool,
    sum_c: bool,
    *_: Any,
) -> tuple[Tensor, ...]:
    wanted = (sum_h, x is not None, noise is not None or ids is not None)
    sums = [g.new_empty(g.shape[:2] if flag else 0, dtype=arithmetic(g.dtype)) for flag in wanted]
    leader = g if y is None else y
    of_c = _channel_sum_fake(g) if sum_c else g.new_empty(0, dtype=arithmetic(g.dtype))
    return torch.empty_like(leader, memory_format=layout(leader)), *sums, of_c


def _channel_sum_fake(g: Tensor, *_: Any) -> Tensor:
    return g.new_empty(g.shape[0], 1, *g.shape[2:], dtype=arithmetic(g.dtype))


def _upfirdn2d_fake(
    x: Tensor, f: Tensor, up: int, down: int, padding: Sequence[int], flip: bool, gain: float
) -> Tensor:
    oh, ow = resampled_size(x, f, up, down, padding)
    return x.new_empty(*x.shape[:2], oh, ow).to(memory_format=layout(x))


def _philox_fake(ids: Tensor, step: Tensor, address: Sequence[int], count: int, kind: int) -> Tensor:
    return ids.new_empty(len(ids), count, dtype=torch.int64 if kind == WORDS else torch.float32)


_FAKES: dict[str, Callable[..., Any]] = {
    "bias_act": _bias_act_fake,
    "bias_act_": _bias_act__fake,
    "bias_act_grad": _bias_act_grad_fake,
    "channel_sum": _channel_sum_fake,
    "upfirdn2d": _upfirdn2d_fake,
    "philox": _philox_fake,
}
for _name, _schema in _SCHEMAS.items():
    declare(_name, _schema, _FAKES[_name], getattr(reference, _name), getattr(host, _name))

bias_act = differentiable("bias_act", _bias_act_backward, _bias_act_setup)
_bias_act_grad = differentiable("bias_act_grad", _bias_act_grad_backward, _bias_act_grad_setup)
_channel_sum = differentiable("channel_sum", _channel_sum_backward, _channel_sum_setup)
upfirdn2d = differentiable("upfirdn2d", _upfirdn2d_backward, _upfirdn2d_setup)
