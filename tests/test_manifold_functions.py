"""The entire functions behind exponential maps, against mpmath: values and two derivatives, in both precisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch

from noisegan.plugins.geometry import functions

root = mpmath.sqrt
EXACT: dict[str, Callable[[Any], Any]] = {
    "cos_sqrt": lambda q: mpmath.cos(root(q)),
    "sinc_sqrt": lambda q: mpmath.sin(root(q)) / root(q),
    "cosh_sqrt": lambda q: mpmath.cosh(root(q)),
    "sinhc_sqrt": lambda q: mpmath.sinh(root(q)) / root(q),
    "tanhc_sqrt": lambda q: mpmath.tanh(root(q)) / root(q),
    "asinc_sqrt": lambda q: mpmath.asin(root(q)) / root(q),
    "asinhc_sqrt": lambda q: mpmath.asinh(root(q)) / root(q),
    "atanc_sqrt": lambda q: mpmath.atan(root(q)) / root(q),
    "atanhc_sqrt": lambda q: mpmath.atanh(root(q)) / root(q),
}
TOLERANCES = {torch.float32: (1e-6, 1e-5, 5e-4), torch.float64: (5e-15, 5e-14, 1e-12)}
"""Of the value and of the first and second derivative, relative to their size."""


def derivatives(name: str, q: torch.Tensor) -> list[torch.Tensor]:
    q = q.requires_grad_()
    value = getattr(functions, name)(q)
    (first,) = torch.autograd.grad(value.sum(), q, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), q)
    return [value.detach(), first.detach(), second]


def test_every_function_is_tested() -> None:
    public = {name for name, value in vars(functions).items() if callable(value) and name.endswith("_sqrt")}
    assert public == set(EXACT)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", EXACT)
def test_values_and_two_derivatives(name: str, dtype: torch.dtype) -> None:
    near = [1e-8, 1e-4, 0.01, 0.05, 0.0624, 0.0626, 0.1, 0.3, 0.6, 0.89]  # on both sides of either switch
    far = [0.99, 1.01, 2.0, 5.0, 9.0, 30.0] if name not in ("asinc_sqrt", "atanhc_sqrt") else []
    q = torch.tensor([*near, *far], dtype=dtype)
    found = derivatives(name, q.clone())
    with mpmath.workdps(40):
        for order, tolerance in enumerate(TOLERANCES[dtype]):
            for at, value in zip(q.tolist(), found[order].tolist(), strict=True):
                exact = mpmath.diff(EXACT[name], mpmath.mpf(at), order)
                assert abs(value - exact) <= tolerance * max(abs(exact), 1e-2), (order, at, value, float(exact))


@pytest.mark.parametrize("name", EXACT)
def test_finite_at_zero_below_zero_and_far_away(name: str) -> None:
    far = 0.9 if name in ("asinc_sqrt", "atanhc_sqrt") else 5000.0 if name in ("cosh_sqrt", "sinhc_sqrt") else 1e30
    for values in derivatives(name, torch.tensor([0.0, -1e-6, far])):
        assert bool(values.isfinite().all())


def test_the_switch_matters() -> None:
    """A series only below 1e-6 ruins the second derivative in float32: what the checks above would catch."""
    q = torch.tensor([2e-6], requires_grad=True)
    t = q.sqrt()
    (first,) = torch.autograd.grad((t.sin() / t).sum(), q, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), q)
    assert abs(float(second) - 1 / 60) > 1
