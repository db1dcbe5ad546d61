"""Convolutions: values and derivatives of three orders are torch's; weights are left out when asked."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from noisegan.core.convolution import conv2d, conv_transpose2d, input_gradients_only
from noisegan.core.rng import Streams

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


def leaf(name: str, *shape: int) -> Tensor:
    return Streams(1)[name].source(ids=[0]).normal(*shape)[0].double().requires_grad_()


@pytest.mark.parametrize(("own", "torchs", "channels", "size"), CASES)
def test_values_and_three_orders_of_derivatives_are_torchs(own, torchs, channels, size) -> None:  # type: ignore[no-untyped-def]
    results = []
    for function in (own, torchs):
        x, w = leaf("x", 2, 2, *size), leaf("w", *channels, 3, 3)
        y = function(x, w)
        values = [y]
        total = (y * y * y).sum()
        for _ in range(3):
            gradients = torch.autograd.grad(total, (x, w), create_graph=True)
            values += gradients
            total = sum((g * g).sum() for g in gradients)
        results.append(values)
    assert len(results[0]) == 7
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("own", "torchs", "channels", "size"), CASES)
def test_gradients_pass_gradcheck(own, torchs, channels, size) -> None:  # type: ignore[no-untyped-def]
    leaves = (leaf("x", 1, 2, *size), leaf("w", *channels, 3, 3))
    assert torch.autograd.gradcheck(own, leaves)
    assert torch.autograd.gradgradcheck(own, leaves)


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


def test_an_error_inside_does_not_leave_weights_out_for_good() -> None:
    with pytest.raises(KeyError), input_gradients_only():
        raise KeyError
    x, w = leaf("x", 1, 2, 4, 4), leaf("w", 3, 2, 3, 3)
    assert torch.autograd.grad(conv2d(x, w).sum(), w)[0].shape == w.shape
