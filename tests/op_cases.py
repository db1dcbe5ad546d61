"""Arguments for the native operations: one table for the emulated kernels and for those on a GPU."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noisegan.ext import reference
from noisegan.ext.layout import arithmetic

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-13, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Relative, of results that are computed in the type of arithmetic and rounded once."""


@dataclass(frozen=True)
class Case:
    """Arguments of an operation, as declared in noisegan/ext/ops.py, on the CPU."""

    op: str
    name: str
    arguments: Callable[[torch.dtype], tuple[Any, ...]]

    def __str__(self) -> str:
        return f"{self.op} {self.name}"


def assert_close(found: Any, expected: Any, dtype: torch.dtype, about: object) -> None:
    """Results of two implementations; sums and drawn normals have errors of float32 or of long sums."""
    found, expected = ([r] if isinstance(r, Tensor) else list(r) for r in (found, expected))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), about
        if not a.is_floating_point():
            assert torch.equal(a, b), about
            continue
        unit = ROUNDING[a.dtype] if "drawn" not in str(about) else max(ROUNDING[a.dtype], 2e-6)
        scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=2 * unit, atol=4 * unit * scale, msg=lambda m: f"{about} {dtype}: {m}")


_SHAPES = ((2, 3, 5, 7), (2, 8, 4, 6), (1, 5, 3, 4), (2, 12, 3, 3), (3, 6), (2, 70, 1, 1))
_LAYOUTS = (torch.contiguous_format, torch.channels_last)
_SQRT2 = math.sqrt(2)
_IDS = (3, 2**40 + 1, 0)
_STEP = 2**32 - 7
_ADDRESS = (123, 0x89ABCDEF, 2)


def _random(*shape: int, seed: int, dtype: torch.dtype = torch.float32, layout: torch.memory_format) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=layout) if x.ndim == 4 else x


def _ones(shape: tuple[int, ...], **sizes: int) -> tuple[int, ...]:
    """A shape of ones but for the axes n, c, p (all pixels) that are given."""
    return (sizes.get("n", 1), sizes.get("c", 1), *(shape[2:] if "p" in sizes else [1] * len(shape[2:])))


def _sides(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """Named sets of side operands."""
    n, c = shape[:2]
    side = arithmetic(dtype)

    def random(seed: int, *size: int) -> Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(side)

    ids = {"ids": torch.tensor(_IDS[:n]), "step": torch.tensor(_STEP), "address": _ADDRESS}
    full, image, constant = (_ones(shape, **s) for s in ({"n": n, "c": c, "p": 1}, {"n": n, "p": 1}, {"p": 1}))
    scale, bias = random(1, n, c), random(2, c)
    return {
        "alone": {},
        "scale and bias": {"scale": scale, "bias": bias},
        "noise of a sample": {"bias": bias, "noise": random(3, *image), "strength": random(4, *_ones(shape))},
        "noise everywhere": {"noise": random(3, *full), "strength": random(4, *_ones(shape, c=c))},
        "one noise, strengths everywhere": {"noise": random(3, *constant), "strength": random(4, *full)},
        "drawn noise": {"scale": scale, "bias": bias, **ids, "strength": random(4, *_ones(shape))},
        "drawn noise, map of strengths": {**ids, "strength": random(4, *image)},
    }


def _clamp(dtype: torch.dtype) -> float:
    return float(torch.tensor(0.7, dtype=dtype))


def _bias_act(dtype: torch.dtype, shape: tuple[int, ...], layout: torch.memory_format, side: str) -> tuple[Any, ...]:
    given = _sides(shape, dtype)[side]
    x = _random(*shape, seed=0, dtype=dtype, layout=layout)
    if side == "noise everywhere" and len(shape) == 4:
        given["noise"] = given["noise"].contiguous(memory_format=layout)
    operands = [given.get(name) for name in ("scale", "bias", "noise", "ids", "step")]
    activation = (1.0, 1.0, math.inf) if side == "noise everywhere" else (0.2, _SQRT2, _clamp(dtype))
    return (x, *operands, given.get("address", ()), given.get("strength"), *activation)


def _bias_act_grad(
    dtype: torch.dtype, shape: tuple[int, ...], layout: torch.memory_format, side: str
) -> tuple[Any, ...]:
    forward = _bias_act(dtype, shape, layout, side)
    g = _random(*shape, seed=5, dtype=dtype, layout=layout)
    x, scale, _, noise, ids, step, address, _, *activation = forward
    y = None if side == "noise everywhere" else reference.bias_act(*forward)
    sum_hx = "scale" in _sides(shape, dtype)[side]
    sum_c, weight = _weight(shape, side)
    return (g, y, x if sum_hx else None, scale, noise, ids, step, address, side != "alone", sum_c, weight, *activation)


_WEIGHTS = {"alone": "", "scale and bias": "nc", "noise everywhere": "c", "drawn noise": "n"}
"""Axes of the weights of a sum over channels, for the sets of side operands that go with one."""


def _weight(shape: tuple[int, ...], side: str) -> tuple[bool, Tensor | None]:
    """Whether to sum over channels, and the weights."""
    if not _WEIGHTS.get(side):
        return side in _WEIGHTS, None
    size = [full if axis in _WEIGHTS[side] else 1 for axis, full in zip("nc", shape[:2], strict=True)]
    return True, torch.randn(size, generator=torch.Generator().manual_seed(6))


def _channel_sum(dtype: torch.dtype, shape: tuple[int, ...], layout: torch.memory_format, side: str) -> tuple[Any, ...]:
    g, y, *_, slope, gain, clamp = _bias_act_grad(dtype, shape, layout, side)
    return (g, y, _weight(shape, side)[1], slope, gain, clamp)


def _upfirdn2d(
    dtype: torch.dtype, shape: tuple[int, ...], layout: torch.memory_format, how: tuple[Any, ...]
) -> tuple[Any, ...]:
    size, up, down, padding, flip = how
    x = _random(*shape, seed=0, dtype=dtype, layout=layout)
    f = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return (x, f, up, down, padding, flip, 1.5)


def _maps() -> list[Case]:
    makers = (("bias_act", _bias_act), ("bias_act_grad", _bias_act_grad), ("channel_sum", _channel_sum))
    cases = []
    for (op, make), shape, layout in itertools.product(makers, _SHAPES, _LAYOUTS):
        if layout == torch.channels_last and len(shape) != 4:
            continue
        for side in _sides(shape, torch.float32):
            if op == "channel_sum" and side not in _WEIGHTS:
                continue
            cases.append(_case(op, make, shape, layout, side))
    # Several chunks of pixels, whose ends do not lie on fours; more channels or pixels than a block has threads, or
    # than the CPU library works on at once.
    shapes = ((1, 2, 4, 8193), (1, 3, 41, 53), (1, 288, 2, 2), (1, 520, 2, 1))
    for shape, layout, side in itertools.product(shapes, _LAYOUTS, ("drawn noise", "noise everywhere")):
        cases += [_case(op, make, shape, layout, side) for op, make in makers]
    return cases + [Case(op, "off its boundary", lambda dtype, make=make: _moved(make, dtype)) for op, make in makers]


def _moved(make: Callable[..., tuple[Any, ...]], dtype: torch.dtype) -> tuple[Any, ...]:
    """Maps that fit vectors but do not start on a vector's boundary."""
    x, *rest = make(dtype, (2, 8, 4, 6), torch.contiguous_format, "alone")
    return (torch.cat((x.new_zeros(1), x.flatten()))[1:].view_as(x), *rest)


def _filters() -> list[Case]:
    usual = [
        ((4, 4), 2, 1, (2, 1, 2, 1), False),
        ((4,), 2, 1, (1, 2, 2, 1), True),
        ((4,), 1, 2, (1, 1, 1, 1), False),
        ((4, 4), 1, 2, (2, 1, 0, 3), True),
        ((4, 4), 1, 1, (2, 1, 1, 2), False),
        ((4,), 1, 1, (-1, 4, 3, -1), False),
        ((4, 4), 2, 1, (-1, 3, 5, -2), False),
        ((3, 4), 2, 1, (2, 1, 2, 1), False),
        ((2, 5), 3, 2, (4, 1, -1, 2), True),
        ((4, 4), 2, 2, (3, 2, 2, 1), False),
        ((12,), 2, 1, (6, 5, 6, 5), False),
        ((1,), 1, 3, (0, 0, 0, 0), False),
    ]
    shapes = ((2, 3, 7, 9), (1, 4, 16, 4))
    return [
        _case("upfirdn2d", _upfirdn2d, shape, layout, how)
        for shape, layout, how in itertools.product(shapes, _LAYOUTS, usual)
    ]


def _streams() -> list[Case]:
    def arguments(count: int, kind: int) -> tuple[Any, ...]:
        return (torch.tensor(_IDS), torch.tensor(_STEP), _ADDRESS, count, kind)

    return [
        Case("philox", f"{count} of kind {kind}, drawn", lambda _, count=count, kind=kind: arguments(count, kind))
        for count, kind in itertools.product((1, 4, 7, 1048), (0, 1, 2))
    ]


def _case(op: str, make: Callable[..., tuple[Any, ...]], shape: tuple[int, ...], layout: Any, how: Any) -> Case:
    name = f"{list(shape)} {'channels_last ' if layout == torch.channels_last else ''}{how}"
    return Case(op, name, lambda dtype: make(dtype, shape, layout, how))


CASES = [*_maps(), *_filters(), *_streams()]
