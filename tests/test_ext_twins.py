"""Native operations against their plain-PyTorch twins: values, both gradients, types, layouts, odd sizes.

Over 400 lines, as one table of operands serves the tests of values, gradients, threads and types alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import op_cases
import pytest
import torch
from backends import backend, native_kernels
from torch import Tensor

from noisegan.core.rng import Streams
from noisegan.ext import (
    DrawnNoise,
    bias_act,
    host,
    noise_bias_act,
    philox_bits,
    philox_normal,
    philox_uniform,
    reference,
    scale_channels,
    upfirdn2d,
)

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 17, 4, 4), (2, 5, 33, 41), (0, 3, 4, 4)]
DTYPES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
LAYOUTS = [torch.contiguous_format, torch.channels_last]
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
NETWORK_RESAMPLING = [
    {"up": 2, "padding": (2, 1, 2, 1), "gain": 4.0},
    {"down": 2, "padding": (1, 1, 1, 1)},
    {"padding": (1, 1, 1, 1), "gain": 4.0},
    {"padding": (2, 2, 2, 2)},
]


@pytest.fixture(autouse=True)
def _native() -> None:
    native_kernels()


def plainly(function: Callable[[], Any]) -> Any:
    """The function's result with the twins in place of the native kernels."""
    with backend("ref"):
        return function()


def normal(name: str, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return Streams(3)[name].source(ids=[0]).normal(*shape)[0].to(dtype)


def one_map(name: str, size: tuple[int, int, int, int]) -> Tensor:
    return normal(name, size[0], 1, *size[2:])


def maps(name: str, shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    x = normal(name, *shape, dtype=dtype)
    return x.contiguous(memory_format=layout) if x.ndim == 4 else x


Size = tuple[int, int, int, int]
OPERANDS: dict[str, Callable[[Size], dict[str, Any]]] = {
    "nothing": lambda s: {},
    "bias": lambda s: {"b": normal("b", s[1])},
    "scale": lambda s: {"scale": normal("s", *s[:2])},
    "map noise": lambda s: {"noise": one_map("e", s), "strength": normal("t")},
    "all": lambda s: {
        "b": normal("b", s[1]),
        "scale": normal("s", *s[:2]),
        "noise": one_map("e", s),
        "strength": normal("t", s[1], 1, 1),
    },
    "sigma map": lambda s: {"noise": one_map("e", s), "strength": one_map("t", s)},
    "one sigma map": lambda s: {"noise": normal("e", 1, 1, *s[2:]), "strength": normal("t", *s[2:])},
    "noise per channel": lambda s: {"noise": normal("e", *s), "strength": normal("t"), "b": normal("b", s[1])},
    "noise per channel, channels last": lambda s: {
        "noise": normal("e", *s).contiguous(memory_format=torch.channels_last),
        "strength": normal("t", s[0], 1, 1, 1),
    },
    "both per channel": lambda s: {"noise": normal("e", *s), "strength": normal("t", *s)},
    "a noise per row": lambda s: {"noise": normal("e", s[0], 1, s[2], 1), "strength": normal("t", 1, s[1], 1, s[3])},
    "drawn": lambda s: {
        "noise": DrawnNoise((5, 6), 7, torch.arange(s[0]) + 2**33, 3),
        "strength": normal("t", s[1], 1, 1),
        "b": normal("b", s[1]),
    },
    "drawn with a sigma map": lambda s: {
        "noise": DrawnNoise((5, 6), 7, torch.arange(s[0]), 0),
        "strength": normal("t", 1, 1, *s[2:]),
        "scale": normal("s", *s[:2]),
    },
}
ACTIVATIONS: list[dict[str, Any]] = [
    {},
    {"act": "linear"},
    {"gain": 0.7, "clamp": 0.7},
    {"act": "linear", "clamp": 1.3},
]


def call(x: Tensor, operands: dict[str, Any], how: dict[str, Any]) -> Tensor:
    if "noise" not in operands:
        return bias_act(x, **operands, **how)
    return noise_bias_act(x, **operands, **how)


def formula(x: Tensor, operands: dict[str, Any], how: dict[str, Any]) -> Tensor:
    """The definition, in plain differentiable steps."""
    n, _, h, w = x.shape
    u = x
    if "scale" in operands:
        u = u * operands["scale"][:, :, None, None]
    if "noise" in operands:
        noise = operands["noise"]
        if isinstance(noise, DrawnNoise):
            numbers = philox_normal(noise.key, noise.step, noise.ids, h * w, first_block=noise.first_block)
            noise = numbers.view(n, 1, h, w).to(u.dtype)
        u = u + operands["strength"] * noise
    if "b" in operands:
        u = u + operands["b"][:, None, None]
    lrelu = how.get("act", "lrelu") == "lrelu"
    if lrelu:
        u = torch.where(u > 0, u, 0.2 * u)
    u = u * how.get("gain", math.sqrt(2) if lrelu else 1)
    return u.clamp(-how["clamp"], how["clamp"]) if "clamp" in how else u


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", OPERANDS)
def test_a_fused_pass_is_its_definition(kind: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    for shape, how in itertools.product(SHAPES, ACTIVATIONS):
        x, operands = maps("x", shape, dtype, layout), OPERANDS[kind](shape)
        found = call(x, operands, how)
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=layout) or found.numel() == 0
        torch.testing.assert_close(
            found.double(), formula(x.double(), operands, how), rtol=DTYPES[dtype], atol=DTYPES[dtype]
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", OPERANDS)
def test_gradients_of_both_orders_are_those_of_the_definition(
    kind: str, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    for how in ACTIVATIONS[:3]:
        shape = (2, 3, 5, 7)
        operands = {
            key: value.to(dtype) if isinstance(value, Tensor) else value for key, value in OPERANDS[kind](shape).items()
        }
        results = [two_gradients(f, maps("x", shape, dtype, layout), operands, how) for f in (call, formula)]
        assert len(results[0]) == len(results[1]) > 1
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def two_gradients(
    function: Callable[..., Tensor], x: Tensor, operands: dict[str, Any], how: dict[str, Any]
) -> list[Tensor]:
    """Gradients of a sum, and of the squared norm of those gradients, with respect to all tensors."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    own = {k: v.clone().requires_grad_() if isinstance(v, Tensor) else v for k, v in operands.items()}
    leaves = [x, *(value for value in own.values() if isinstance(value, Tensor))]
    y = function(x, own, how)
    first = torch.autograd.grad((y * normal("v", *y.shape).to(y.dtype)).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(
        sum((g.square().sum() for g in first), y.new_zeros(())) + (y * y * y).sum(), leaves, allow_unused=True
    )
    return [*first, *(torch.zeros_like(leaf) if g is None else g for g, leaf in zip(second, leaves, strict=True))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sixteen_bit_gradients_agree_with_their_twins(dtype: torch.dtype, layout: torch.memory_format) -> None:
    shape = (2, 5, 9, 11)
    operands = OPERANDS["all"](shape)
    operands = {key: value.float() for key, value in operands.items()}
    for how in ACTIVATIONS:
        found = first_gradients(maps("x", shape, dtype, layout), operands, how)
        expected = plainly(lambda how=how: first_gradients(maps("x", shape, dtype, layout), operands, how))
        assert len(found) == 5
        for f, e in zip(found, expected, strict=True):
            assert f.dtype == e.dtype
            torch.testing.assert_close(f.float(), e.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", op_cases.DTYPES, ids=str)
def test_the_library_agrees_on_the_cases_of_the_kernels(dtype: torch.dtype) -> None:
    """Among them sums over channels beside those over pixels, whose weights the functions here never spread so."""
    kernels = native_kernels()
    for case in op_cases.CASES:
        arguments = case.arguments(dtype)
        expected = getattr(reference, case.op)(*arguments)
        op_cases.assert_close(getattr(host, case.op)(kernels, *arguments), expected, dtype, case)


def first_gradients(x: Tensor, operands: dict[str, Any], how: dict[str, Any]) -> tuple[Tensor, ...]:
    x.requires_grad_()
    own = {key: value.clone().requires_grad_() for key, value in operands.items()}
    y = call(x, own, how)
    return torch.autograd.grad(y, [x, *own.values()], normal("v", *y.shape).to(y.dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["native", "ref"])
def test_maps_are_overwritten_only_without_gradients(kind: str, layout: torch.memory_format) -> None:
    shape = (2, 5, 9, 11)
    operands = {key: value.float() for key, value in OPERANDS["all"](shape).items()}
    with backend(kind):
        for view in (slice(None), slice(None, None, 2)):
            x = maps("x", shape, torch.float32, layout)[:, :, view]
            own = operands | {"noise": operands["noise"][:, :, view]}
            expected = noise_bias_act(x, **own)
            kept = noise_bias_act(x, **own, overwrite=True)
            assert not torch.equal(x, expected)
            with torch.no_grad():
                found = noise_bias_act(x, **own, overwrite=True)
            assert found is x
            assert torch.equal(found, expected)
            assert torch.equal(kept, expected)


def test_a_clamped_value_has_no_gradient_in_sixteen_bits() -> None:
    """0.7 is 0.6992 in bfloat16: a clamp compared unrounded would let every clamped value pass for a free one."""
    x = torch.full((1, 1, 2, 2), 5.0, dtype=torch.bfloat16, requires_grad=True)
    (gradient,) = torch.autograd.grad(bias_act(x, act="linear", clamp=0.7).sum(), x)
    assert not gradient.any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_not_a_number_passes_through(layout: torch.memory_format) -> None:
    x = maps("x", (2, 20, 6, 6), torch.float32, layout)
    x[1, 3, 2, 2] = math.nan
    for how in ACTIVATIONS:
        assert int(bias_act(x, **how).isnan().sum()) == 1
    assert upfirdn2d(x, TAPS, padding=(1, 2, 1, 2)).isnan().sum() == 16


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_resampling_agrees_with_its_twin(dtype: torch.dtype, layout: torch.memory_format) -> None:
    lopsided = normal("f", 3, 5)
    cases = [
        *((TAPS.double(), how) for how in NETWORK_RESAMPLING),
        (TAPS.double(), {"up": 2, "padding": (1, 1, 3, 2), "flip": True}),
        (lopsided, {"up": 2, "down": 3, "padding": (4, 3, 2, 5)}),
        (lopsided, {"up": 3, "padding": (3, -1, 2, 3), "flip": True}),
        (normal("t", 7), {"down": 2, "padding": (3, 3, 3, 3)}),
        (normal("t", 2), {"up": 1, "padding": (-1, 2, 1, 1), "gain": 3.0}),
    ]
    for (f, how), shape in itertools.product(cases, [(2, 3, 5, 7), (1, 16, 8, 8), (2, 1, 9, 4), (1, 33, 2, 12)]):
        x = maps("x", shape, dtype, layout)
        found = upfirdn2d(x, f.to(dtype) if dtype == torch.float64 else f.float(), **how)
        assert found.is_contiguous(memory_format=layout)
        options = {"up": 1, "down": 1, "padding": (0, 0, 0, 0), "flip": False, "gain": 1.0} | how
        expected = reference.upfirdn2d(x.double(), f, **options)
        torch.testing.assert_close(found.double(), expected, rtol=DTYPES[dtype], atol=4 * DTYPES[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", NETWORK_RESAMPLING)
def test_resampling_has_the_gradients_of_its_twin(how: dict[str, Any], layout: torch.memory_format) -> None:
    options = {"up": 1, "down": 1, "padding": (0, 0, 0, 0), "flip": False, "gain": 1.0} | how
    x = maps("x", (2, 9, 6, 5), torch.float64, layout)
    results = []
    for function in (upfirdn2d, lambda x, f, **o: reference.upfirdn2d(x, f, **(options | o))):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = function(leaf, TAPS.double(), **how)
        (first,) = torch.autograd.grad((y * y).sum(), leaf, create_graph=True)
        results.append((y, first, *torch.autograd.grad((first * first * first).sum(), leaf)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_streams_have_the_same_bits_and_nearly_the_same_normals() -> None:
    ids = torch.tensor([0, 1, 2**31, 2**40 + 5])
    for count, first in [(1, 0), (7, 3), (64, 2**31), (1000, 0), (0, 5), (4099, 1)]:
        for draw, tolerance in [(philox_bits, 0.0), (philox_uniform, 0.0), (philox_normal, 2e-6)]:
            found = draw((2**32 - 1, 7), 2**32 - 1, ids, count, first_block=first)
            expected = plainly(lambda d=draw, c=count, f=first: d((2**32 - 1, 7), 2**32 - 1, ids, c, first_block=f))
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["native", "ref"])
def test_a_step_in_a_tensor_is_read_when_the_kernel_runs(kind: str) -> None:
    """The same arguments, another number in the same memory: what a CUDA graph replays."""
    ids, x = torch.arange(2), torch.zeros(2, 1, 3, 5)
    step = torch.empty(1, dtype=torch.int64)
    noise = DrawnNoise((5, 6), step, ids)
    with backend(kind):
        for number in (0, 1, 2**32 - 1):
            step.fill_(number)
            for draw in (philox_bits, philox_uniform, philox_normal):
                assert torch.equal(draw((5, 6), step, ids, 7), draw((5, 6), number, ids, 7))
            strength = torch.ones((), requires_grad=True)
            results = []
            for one in (noise, replace(noise, step=number)):
                y = noise_bias_act(x, one, strength, act="linear")
                results.append((y.detach(), *torch.autograd.grad((y * y).sum(), strength)))
            for found, expected in zip(*results, strict=True):
                assert torch.equal(found, expected)
            torch.testing.assert_close(results[0][0].flatten(1), philox_normal((5, 6), number, ids, 15))


def test_normals_have_the_moments_of_the_normal_distribution() -> None:
    values = philox_normal((1, 2), 0, torch.arange(64), 1 << 14).double()
    n = values.numel()
    for power, moment, spread in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(float((values**power).mean()) - moment) < 5 * math.sqrt(spread / n)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    """Sums too: their parts are fixed by the shape."""
    shape = (3, 40, 48, 48)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            for layout in LAYOUTS:
                x = maps("x", shape, torch.float32, layout)
                operands = {key: value.float() for key, value in OPERANDS["all"](shape).items()}
                results.append((call(x, operands, {}), *first_gradients(x, operands, {}), upfirdn2d(x, TAPS, up=2)))
                results[-1] = (*results[-1], philox_normal((1, 2), 3, torch.arange(3), 40_000))
        finally:
            torch.set_num_threads(1)
    for later in range(2, len(results)):
        for a, b in zip(results[later - 2], results[later], strict=True):
            assert torch.equal(a, b)


def test_second_derivatives_in_float16_do_not_overflow_where_their_results_do_not() -> None:
    """A factor of a million beside a gradient of a thousandth, as path length meets them."""
    x = torch.ones(1, 1, 2, 2, dtype=torch.float16, requires_grad=True)
    scale = torch.ones(1, 1, requires_grad=True)
    upstream = torch.full((1, 1, 2, 2), 1e-3, dtype=torch.float16, requires_grad=True)
    (of_scale,) = torch.autograd.grad(scale_channels(x, scale), scale, upstream, create_graph=True)
    (second,) = torch.autograd.grad(of_scale, x, torch.full((1, 1), 1e6))
    torch.testing.assert_close(second.float(), torch.full((1, 1, 2, 2), 1e3), rtol=1e-2, atol=0)


def test_mixed_layouts_and_views_are_accepted() -> None:
    x = normal("x", 2, 6, 8, 8, dtype=torch.float32)
    for view in (x[:, ::2], x.transpose(2, 3), x[:, :, ::2, 1:], x.expand(2, 6, 8, 8)[:1].expand(3, -1, -1, -1)):
        torch.testing.assert_close(bias_act(view), formula(view, {}, {}))
        torch.testing.assert_close(scale_channels(view, torch.full(view.shape[:2], 2.0)), 2 * view)
    ids, strength = torch.arange(6)[::3], torch.ones(())
    drawn = noise_bias_act(torch.zeros(2, 6, 8, 8), DrawnNoise((1, 2), 3, ids), strength, act="linear")
    torch.testing.assert_close(drawn[:, 5].flatten(1), philox_normal((1, 2), 3, ids.clone(), 64))
    torch.testing.assert_close(
        philox_normal((1, 2), 3, torch.tensor([7]).expand(2), 8)[1:], philox_normal((1, 2), 3, torch.tensor([7]), 8)
    )
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = bias_act(last)
    (gradient,) = torch.autograd.grad(y, last, torch.ones_like(x))
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_what_does_not_fit_is_refused_in_one_sentence() -> None:
    x = torch.zeros(2, 3, 4, 4)
    drawn = DrawnNoise((1, 2), 0, torch.arange(2))
    meta = torch.arange(2, device="meta")
    refusals: list[tuple[str, type[Exception], Callable[[], Any]]] = [
        ("gain must be above 0, not -1", ValueError, lambda: bias_act(x, gain=-1)),
        ("clamp must be above 0, not 0", ValueError, lambda: bias_act(x, clamp=0)),
        (r"the bias must have shape \[3\]", ValueError, lambda: bias_act(x, torch.zeros(4))),
        (r"the scale must have shape \[2, 3\]", ValueError, lambda: scale_channels(x, torch.zeros(3))),
        ("the noise of shape .* does not broadcast", ValueError, lambda: noise_bias_act(x, x[:, :2], torch.ones(()))),
        ("the strength of shape .* does not broadcast", ValueError, lambda: noise_bias_act(x, x, torch.ones(2, 1, 1))),
        (
            "needs 2 sample ids",
            ValueError,
            lambda: noise_bias_act(x, replace(drawn, ids=torch.arange(5)), torch.ones(())),
        ),
        ("maps must be float32", TypeError, lambda: bias_act(x.int())),
        ("maps must be float32", TypeError, lambda: upfirdn2d(x.int(), TAPS)),
        ("up and down must be 1 or more", ValueError, lambda: upfirdn2d(x, TAPS, up=0)),
        ("a filter of 4 x 4 does not fit", ValueError, lambda: upfirdn2d(x[:, :, :2], TAPS)),
        (r"upfirdn2d needs x \[N, C, H, W\]", ValueError, lambda: upfirdn2d(x[0], TAPS)),
        ("and padding", ValueError, lambda: upfirdn2d(x, TAPS, padding=(1, 1))),  # type: ignore[arg-type]
        ("upfirdn2d needs", ValueError, lambda: upfirdn2d(x, TAPS[:0])),
        (r"maps must be \[N, C, ...\]", ValueError, lambda: bias_act(x[0, 0, 0])),
        ("the bias is on meta and the maps on cpu", ValueError, lambda: bias_act(x, torch.zeros(3, device="meta"))),
        ("the filter is on meta", ValueError, lambda: upfirdn2d(x, TAPS.to("meta"))),
        ("the noise is on meta", ValueError, lambda: noise_bias_act(x, replace(drawn, ids=meta), torch.ones(()))),
        (r"sample ids must be \[N\] int64", ValueError, lambda: philox_bits((1, 2), 0, torch.arange(3.0), 4)),
        (r"sample ids must be \[N\] int64", ValueError, lambda: philox_bits((1, 2), 0, torch.arange(3).int(), 4)),
        ("the step must be 0 or more", ValueError, lambda: philox_bits((1, 2), 2**32, torch.arange(3), 4)),
        (
            r"a step in a tensor must be one int64 number on cpu, .* not \[\] torch.float32 on cpu",
            ValueError,
            lambda: philox_bits((1, 2), torch.tensor(0.0), torch.arange(3), 4),
        ),
        (
            r"a step in a tensor must be one int64 number on cpu, .* not \[3\] torch.int64 on cpu",
            ValueError,
            lambda: noise_bias_act(x, replace(drawn, step=torch.arange(3)), torch.ones(())),
        ),
        (
            "where the sample ids are, not .* on meta",
            ValueError,
            lambda: philox_bits((1, 2), meta[0], torch.arange(3), 4),
        ),
        ("the count must be 0 or more", ValueError, lambda: philox_bits((1, 2), 0, torch.arange(3), -4)),
    ]
    for message, kind, function in refusals:
        with pytest.raises(kind, match=message):
            function()
