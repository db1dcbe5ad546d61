"""Convolutions: values and derivatives of three orders are torch's; weights are left out when asked."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from noisegan.core.rng import Streams
from noisegan.ext import load
from noisegan.ext.convolution import conv2d, conv_transpose2d, input_gradients_only, pointwise

CASES = [
    pytest.param(lambda x, w: conv2d(x, w), lambda x, w: F.conv2d(x, w), (3, 2), (4, 5), id="plain"),
    pytest.param(
        lambda x, w: conv2d(x, w, padding=1), lambda x, w: F.conv2d(x, w, padding=1), (3, 2), (4, 3), id="padded"
    ),
    pytest.param(
        lambda x, w: conv2d(x, w, stride=2), lambda x, w: F.conv2d(x, w, stride=2), (3, 2), (6, 5), id="strided"
    ),
    pytest.param(
        lambda x, w: conv_transpose2d(x, w, stride=2),
        lambda x, w: F.conv_transpose2d(x, w, stride=2),
        (2, 3),
        (2, 3),
        id="transposed",
    ),
]


LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "last"])


def leaf(name: str, *shape: int) -> Tensor:
    return Streams(1)[name].source(ids=[0]).normal(*shape)[0].double().requires_grad_()


def with_derivatives(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor) -> list[Tensor]:
    """The result, and derivatives of three orders in both."""
    y = function(x, w)
    values = [y]
    total = (y * y * y).sum()
    for _ in range(3):
        gradients = torch.autograd.grad(total, (x, w), create_graph=True)
        values += gradients
        total = sum(((g * g).sum() for g in gradients), torch.zeros(()))
    return values


def assert_alike(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) == 7
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("own", "torchs", "channels", "size"), CASES)
def test_values_and_three_orders_of_derivatives_are_torchs(own, torchs, channels, size) -> None:  # type: ignore[no-untyped-def]
    results = []
    for function in (own, torchs):
        x, w = leaf("x", 2, 2, *size), leaf("w", *channels, 3, 3)
        results.append(with_derivatives(function, x, w))
    assert_alike(*results)


@pytest.mark.parametrize(("own", "torchs", "channels", "size"), CASES)
def test_gradients_pass_gradcheck(own, torchs, channels, size) -> None:  # type: ignore[no-untyped-def]
    leaves = (leaf("x", 1, 2, *size), leaf("w", *channels, 3, 3))
    assert torch.autograd.gradcheck(own, leaves)
    assert torch.autograd.gradgradcheck(own, leaves)


@LAYOUTS
def test_a_matrix_for_each_sample_is_an_einsum_with_three_orders_of_derivatives(layout: torch.memory_format) -> None:
    x = leaf("x", 2, 4, 3, 5).detach().contiguous(memory_format=layout).requires_grad_()
    matrices = leaf("w", 2, 3, 4)
    assert_alike(
        with_derivatives(pointwise, x, matrices),
        with_derivatives(lambda x, m: torch.einsum("noi,nihw->nohw", m, x), x, matrices),
    )
    assert torch.autograd.gradgradcheck(pointwise, (x, matrices))


@LAYOUTS
def test_its_gradient_lies_as_the_maps_do(layout: torch.memory_format) -> None:
    x = leaf("x", 2, 4, 3, 5).detach().contiguous(memory_format=layout).requires_grad_()
    matrices = leaf("w", 2, 3, 4)
    y = pointwise(x, matrices)
    assert y.is_contiguous()
    gx, gmatrices = torch.autograd.grad(y, (x, matrices), torch.ones_like(y))
    assert gx.is_contiguous(memory_format=layout)
    assert gmatrices.is_contiguous()
    assert torch.autograd.grad(pointwise(x.detach(), matrices).sum(), matrices)[0].equal(gmatrices)
    assert torch.autograd.grad(pointwise(x, matrices.detach()).sum(), x)[0].equal(gx)


def test_weights_are_left_out_when_only_inputs_are_asked_for() -> None:
    x, w = leaf("x", 1, 2, 4, 4), leaf("w", 3, 2, 3, 3)
    with input_gradients_only():
        (inner,) = torch.autograd.grad(conv2d(x, w).square().sum(), x, create_graph=True)
        nothing = torch.autograd.grad(conv2d(x, w).sum(), w, allow_unused=True)
    assert nothing == (None,)
    (outer,) = torch.autograd.grad(inner.square().sum(), w)  # the gradient's own weights are still there
    y = F.conv2d(x, w).square().sum()
    (expected,) = torch.autograd.grad(torch.autograd.grad(y, x, create_graph=True)[0].square().sum(), w)
    torch.testing.assert_close(outer, expected)


def test_a_compiler_knows_how_results_lie() -> None:
    """Strides of every result are what was foretold, from one channel and pixel to what Winograd's way is taken for."""
    layouts = (torch.contiguous_format, torch.channels_last)
    for (n, c, k, side), x_last, w_last, stride in itertools.product(
        ((2, 3, 4, 5), (1, 1, 1, 3), (2, 1, 3, 4), (4, 32, 32, 16)), layouts, layouts, (1, 2)
    ):
        x = torch.randn(n, c, side, side).contiguous(memory_format=x_last)
        w = torch.randn(k, c, 3, 3).contiguous(memory_format=w_last)
        y = conv2d(x, w, stride=stride, padding=1)
        for y_last in layouts:
            g = torch.randn_like(y).contiguous(memory_format=y_last)
            calls = {
                "convolution": (x, w, stride, 1),
                "convolution_input": (g, w, x.shape[2:], stride, 1),
                "convolution_weight": (x, g, [3, 3], stride, 1),
            }
            for name, arguments in calls.items():
                op = getattr(torch.ops.noisegan, name)
                with FakeTensorMode() as mode:
                    foretold = op(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments))
                found = op(*arguments)
                assert (found.shape, found.stride()) == (foretold.shape, foretold.stride()), (name, n, c, k, side)


def test_a_compiled_function_is_one_graph_for_all_batches_and_keeps_its_weights_gradients() -> None:
    """Also when it is compiled first thing, before any kernels are chosen, and while weights are left out."""
    load.forget()
    counter = CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()
    function = torch.compile(lambda x, w: conv2d(x, w, padding=1), backend=counter, fullgraph=True, dynamic=True)
    w = torch.randn(4, 3, 3, 3).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own tracing
        with input_gradients_only():
            function(torch.randn(2, 3, 6, 6), w)
        for batch in (3, 5, 6):
            x = torch.randn(batch, 3, 6, 6)
            (found,) = torch.autograd.grad(function(x, w).square().sum(), w)
            (expected,) = torch.autograd.grad(F.conv2d(x, w, padding=1).square().sum(), w)
            torch.testing.assert_close(found, expected)
    assert counter.frame_count == 1


def test_an_error_inside_does_not_leave_weights_out_for_good() -> None:
    with pytest.raises(KeyError), input_gradients_only():
        raise KeyError
    x, w = leaf("x", 1, 2, 4, 4), leaf("w", 3, 2, 3, 3)
    assert torch.autograd.grad(conv2d(x, w).sum(), w)[0].shape == w.shape
