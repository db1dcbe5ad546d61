"""The operations as networks and plugins call them. Each runs natively where it can, else in plain PyTorch.

All are differentiable to any order, in float64, float32, bfloat16 and float16, on maps laid out as rows of pixels or
channels_last (results keep the layout). They compute in float32 (float64 for float64) and round once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from noisegan.ext import ops, reference
from noisegan.ext.params import DTYPES

LRELU_SLOPE = 0.2
_ACTIVATIONS = {"lrelu": (LRELU_SLOPE, math.sqrt(2)), "linear": (1.0, 1.0)}
"""Slope below zero and the gain that keeps the variance."""


@dataclass(frozen=True)
class DrawnNoise:
    """Noise that is not stored but drawn where it is used, and again for the derivative.

    Pixel p of sample i is number p of the stream `key` at `step` for `ids[i]`, so it equals
    `philox_normal(key, step, ids, H * W, first_block=first_block).view(N, 1, H, W)`.

    Args:
        key: two words naming the stream.
        step: 0 <= step < 2^32, or a tensor as `philox_bits` takes it.
        ids: [N] int64, non-negative.
        first_block: blocks of four numbers to pass over.
    """

    key: tuple[int, int]
    step: int | Tensor
    ids: Tensor
    first_block: int = 0


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
    *,
    scale: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """Scale, add a bias per channel, apply an activation, scale, clamp: one pass over memory.

    Args:
        x: [N, C, ...].
        b: [C] or None.
        act: `lrelu` (slope 0.2) or `linear`.
        gain: factor after the activation, above 0; default sqrt(2) for `lrelu` (keeps the variance), 1 for `linear`.
        clamp: limit of the absolute value after the gain, above 0, or None. At the limit the derivative is 0.
        scale: [N, C], factor per sample and channel before the bias, or None. Demodulation is such a factor.
        overwrite: x is needed no more: under `torch.no_grad` the result is written over it.

    Returns:
        Like `x`.

    Raises:
        ValueError: for another activation, a gain or clamp that is not above 0, or shapes that do not fit.
        TypeError: for maps of another type than the four.
    """
    return _fused(x, None, None, b, act, gain, clamp, scale, overwrite)


def noise_bias_act(
    x: Tensor,
    noise: Tensor | DrawnNoise,
    strength: Tensor,
    b: Tensor | None = None,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
    *,
    scale: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """act(x scale + strength noise + b) gain, clamped: a site of StyleGAN2 after its convolution, in one pass.

    Args:
        x: [N, C, H, W].
        noise: a tensor that broadcasts to x, such as [N, 1, H, W], or `DrawnNoise`.
        strength: a tensor that broadcasts to x: one number, [C, 1, 1], or a map such as [N, 1, H, W].
        b, act, gain, clamp, scale, overwrite: as in `bias_act`.

    Returns:
        Like `x`.

    Raises:
        ValueError: as `bias_act`, and for noise or strength that does not broadcast to x.
    """
    return _fused(x, noise, strength, b, act, gain, clamp, scale, overwrite)


def scale_channels(x: Tensor, scale: Tensor) -> Tensor:
    """x [N, C, ...] times a factor per sample and channel, [N, C]: modulation by a style."""
    return _fused(x, None, None, None, "linear", None, None, scale, False)


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Insert zeros, pad, filter, drop samples: resampling with a finite impulse response filter.

    Args:
        x: [N, C, H, W].
        f: [kh, kw], or [k] for the separable filter f f^T.
        up: `up - 1` zeros follow every sample on both axes.
        down: every `down`-th sample of the result is kept.
        padding: (x0, x1, y0, y1) zeros around the upsampled map; negative values crop.
        flip: False convolves with f, True correlates.
        gain: factor on the result. Upsampling by 2 with a filter of unit sum needs 4 to keep the mean.

    Returns:
        [N, C, (H up + y0 + y1 - kh) // down + 1, likewise for W].

    Raises:
        ValueError: when x is not 4-D, f not 1-D or 2-D, up or down below 1, or the result would be empty.
    """
    _check_map(x, {"filter": f})
    if x.ndim != 4 or f.ndim not in (1, 2) or f.numel() == 0 or len(padding) != 4:
        raise ValueError(
            f"upfirdn2d needs x [N, C, H, W], f [k] or [kh, kw] and padding (x0, x1, y0, y1), "
            f"not {list(x.shape)}, {list(f.shape)} and {tuple(padding)}"
        )
    if up < 1 or down < 1:
        raise ValueError(f"up and down must be 1 or more, not {up} and {down}")
    if min(_filtered(x, f, up, padding)) < 1:
        raise ValueError(
            f"a filter of {f.shape[0]} x {f.shape[-1]} does not fit into a map of {x.shape[2]} x {x.shape[3]} with "
            f"up={up} and padding={padding}: pad more"
        )
    if f.requires_grad and torch.is_grad_enabled():  # a filter that learns: rare, and plain PyTorch can
        return reference.upfirdn2d(x, f, up, down, padding, flip, gain)
    out: Tensor = ops.upfirdn2d(x, f, up, down, padding, flip, gain)
    return out


def philox_bits(key: tuple[int, int], step: int | Tensor, ids: Tensor, count: int, *, first_block: int = 0) -> Tensor:
    """Unsigned 32-bit words for every sample id: Philox 4x32-10 with key = (seed, stream), counter = (block, id, step).

    Args:
        key: two words naming the stream.
        step: 0 <= step < 2^32; or a tensor of one such number, int64, on the device of `ids`, which is read by the
            kernel: it may change in place between the replays of a CUDA graph.
        ids: [N] int64, non-negative; one per sample.
        count: words wanted per sample.
        first_block: blocks of four words to pass over.

    Raises:
        ValueError: for ids that are not [N] int64, a step that is out of range or no such tensor, a count below 0.

    Returns:
        [N, count] int64 on the device of `ids`, the same on every device and backend; row i depends on key, step and
        ids[i] only.
    """
    return _philox(key, step, ids, count, first_block, ops.WORDS)


def philox_uniform(
    key: tuple[int, int], step: int | Tensor, ids: Tensor, count: int, *, first_block: int = 0
) -> Tensor:
    """float32 numbers in [0, 1), 24 random bits each; arguments as in `philox_bits`. Returns [N, count]."""
    return _philox(key, step, ids, count, first_block, ops.UNIFORM)


def philox_normal(key: tuple[int, int], step: int | Tensor, ids: Tensor, count: int, *, first_block: int = 0) -> Tensor:
    """float32 standard normals by Box-Muller; arguments as in `philox_bits`. Returns [N, count].

    The radius uses all 32 bits, so the tails reach 6.7 standard deviations. Backends agree to float rounding.
    """
    return _philox(key, step, ids, count, first_block, ops.NORMAL)


def _philox(key: tuple[int, int], step: int | Tensor, ids: Tensor, count: int, first_block: int, kind: int) -> Tensor:
    at = _step_beside(ids, step)
    if count < 0:
        raise ValueError(f"the count must be 0 or more, not {count}")
    out: Tensor = ops.philox(ids, at, (*key, first_block), count, kind)
    return out


def _fused(
    x: Tensor,
    noise: Tensor | DrawnNoise | None,
    strength: Tensor | None,
    b: Tensor | None,
    act: str,
    gain: float | None,
    clamp: float | None,
    scale: Tensor | None,
    overwrite: bool,
) -> Tensor:
    _check_map(x, {"bias": b, "scale": scale, "strength": strength, "noise": noise})
    if act not in _ACTIVATIONS:
        raise ValueError(f"act must be 'lrelu' or 'linear', not {act!r}")
    slope, own_gain = _ACTIVATIONS[act]
    gain = own_gain if gain is None else gain
    if not gain > 0:
        raise ValueError(f"gain must be above 0, not {gain}: the derivative is read off the sign of the result")
    if clamp is not None and not clamp > 0:
        raise ValueError(f"clamp must be above 0, not {clamp}; None for no limit")
    if b is not None and b.shape != x.shape[1:2]:
        raise ValueError(f"the bias must have shape [{x.shape[1]}], one number per channel, not {list(b.shape)}")
    if scale is not None and scale.shape != x.shape[:2]:
        raise ValueError(f"the scale must have shape {list(x.shape[:2])}, not {list(scale.shape)}")
    ids: Tensor | None = None
    step: Tensor | None = None
    address: tuple[int, ...] = ()
    if isinstance(noise, DrawnNoise):
        ids, step = noise.ids, _step_beside(noise.ids, noise.step)
        address, noise = (*noise.key, noise.first_block), None
        if ids.shape != x.shape[:1]:
            raise ValueError(f"the noise to draw needs {len(x)} sample ids, not {list(ids.shape)}")
    operands = (
        scale,
        b,
        None if noise is None else _broadcast(noise, x, "noise"),
        ids,
        step,
        address,
        None if strength is None else _broadcast(strength, x, "strength"),
        slope,
        gain,
        math.inf if clamp is None else _representable(clamp, x.dtype),
    )
    if overwrite and not torch.is_grad_enabled():
        torch.ops.noisegan.bias_act_(x, *operands)
        return x
    out: Tensor = ops.bias_act(x, *operands)
    return out


def _check_map(x: Tensor, operands: Mapping[str, object]) -> None:
    """Kernels take addresses: whatever lies elsewhere has to be refused."""
    if x.dtype not in DTYPES:
        raise TypeError(f"maps must be float32, float64, bfloat16 or float16, not {x.dtype}: convert them")
    if x.ndim < 2:
        raise ValueError(f"maps must be [N, C, ...], not {list(x.shape)}")
    for name, value in operands.items():
        place = value.ids if isinstance(value, DrawnNoise) else value
        if isinstance(place, Tensor) and place.device != x.device:
            raise ValueError(f"the {name} is on {place.device} and the maps on {x.device}: move one of them")


def _step_beside(ids: Tensor, step: int | Tensor) -> Tensor:
    """The step as kernels read it: one number in the memory of `ids`. A tensor is not looked into."""
    if ids.dtype != torch.int64 or ids.ndim != 1:
        raise ValueError(f"sample ids must be [N] int64, not {list(ids.shape)} {ids.dtype}")
    if isinstance(step, Tensor):
        if step.dtype != torch.int64 or step.numel() != 1 or step.device != ids.device:
            raise ValueError(
                f"a step in a tensor must be one int64 number on {ids.device}, where the sample ids are, not "
                f"{list(step.shape)} {step.dtype} on {step.device}"
            )
        return step
    if not 0 <= step < 2**32:
        raise ValueError(f"the step must be 0 or more and below 2^32, not {step}")
    return torch.full((), step, dtype=torch.int64, device=ids.device)


def _broadcast(value: Tensor, x: Tensor, name: str) -> Tensor:
    """With as many dimensions as x."""
    shape = (1,) * (x.ndim - value.ndim) + tuple(value.shape)
    if len(shape) != x.ndim or any(size not in (1, full) for size, full in zip(shape, x.shape, strict=True)):
        raise ValueError(f"the {name} of shape {list(value.shape)} does not broadcast to maps of {list(x.shape)}")
    return value if value.ndim == x.ndim else value.reshape(shape)


@lru_cache
def _representable(clamp: float, dtype: torch.dtype) -> float:
    """The clamp as maps of `dtype` hold it: the derivative compares it with the rounded result."""
    return float(torch.tensor(clamp, dtype=dtype))


def _filtered(x: Tensor, f: Tensor, up: int, padding: tuple[int, int, int, int]) -> tuple[int, int]:
    """Positions where the filter fits."""
    x0, x1, y0, y1 = padding
    return x.shape[2] * up + y0 + y1 - f.shape[0] + 1, x.shape[3] * up + x0 + x1 - f.shape[-1] + 1
