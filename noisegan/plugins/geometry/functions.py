"""Entire functions for exponential maps, in q = |v|^2 and never in |v|: smooth at v = 0, where square roots are not.

cos sqrt(q) and sin(sqrt q)/sqrt q are power series in q. Below a switch they are summed as such, above it computed from
the square root; each branch sees a harmless q where the other is taken, so that derivatives stay finite (double where).
The switch is far from 0: a series up to q = 1 keeps second derivatives to 3e-6 in float32, a switch at 1e-2 loses four
digits of them and one at 1e-6 all. A slightly negative q (rounding) lands in the series and is as good as any.

All take q [...] of any floating dtype and return [...]; in float64 values are exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial

import torch
from torch import Tensor

_ENTIRE = 1.0
"""Switch of the series with factorials in their denominators."""
_INVERSE = 1 / 16
"""Switch of the inverse functions, whose series converge for |q| < 1 only."""
_FLOAT32_TERMS = 7


def cos_sqrt(q: Tensor) -> Tensor:
    """cos sqrt(q)."""
    return _either(q, _ENTIRE, lambda q: _series(_COS, q), lambda t: t.cos())


def sinc_sqrt(q: Tensor) -> Tensor:
    """sin(sqrt q) / sqrt q."""
    return _either(q, _ENTIRE, lambda q: _series(_SINC, q), lambda t: t.sin() / t)


def cosh_sqrt(q: Tensor) -> Tensor:
    """cosh sqrt(q)."""
    return _either(q, _ENTIRE, lambda q: _series(_COSH, q), lambda t: t.cosh())


def sinhc_sqrt(q: Tensor) -> Tensor:
    """sinh(sqrt q) / sqrt q."""
    return _either(q, _ENTIRE, lambda q: _series(_SINHC, q), lambda t: t.sinh() / t)


def tanhc_sqrt(q: Tensor) -> Tensor:
    """tanh(sqrt q) / sqrt q."""
    return _either(q, _ENTIRE, lambda q: _series(_SINHC, q) / _series(_COSH, q), lambda t: t.tanh() / t)


def asinc_sqrt(q: Tensor) -> Tensor:
    """asin(sqrt q) / sqrt q, for q < 1."""
    return _either(q, _INVERSE, lambda q: _series(_ASINC, q), lambda t: t.asin() / t)


def asinhc_sqrt(q: Tensor) -> Tensor:
    """asinh(sqrt q) / sqrt q."""
    return _either(q, _INVERSE, lambda q: _series(_ASINHC, q), lambda t: t.asinh() / t)


def atanc_sqrt(q: Tensor) -> Tensor:
    """atan(sqrt q) / sqrt q."""
    return _either(q, _INVERSE, lambda q: _series(_ATANC, q), lambda t: t.atan() / t)


def atanhc_sqrt(q: Tensor) -> Tensor:
    """atanh(sqrt q) / sqrt q, for q < 1."""
    return _either(q, _INVERSE, lambda q: _series(_ATANHC, q), lambda t: t.atanh() / t)


def _either(q: Tensor, switch: float, series: Callable[[Tensor], Tensor], exact: Callable[[Tensor], Tensor]) -> Tensor:
    """`series(q)` below the switch, `exact(sqrt q)` from it on."""
    near = q < switch
    return torch.where(near, series(torch.where(near, q, 0)), exact(torch.where(near, switch, q).sqrt()))


def _series(coefficients: Sequence[float], q: Tensor) -> Tensor:
    """sum_k coefficients[k] q^k by Horner, with as many terms as the dtype can tell apart."""
    kept = coefficients if q.dtype == torch.float64 else coefficients[:_FLOAT32_TERMS]
    total = q * kept[-1] + kept[-2]
    for coefficient in kept[-3::-1]:
        total = total * q + coefficient
    return total


_COS = [(-1) ** k / factorial(2 * k) for k in range(11)]
_SINC = [(-1) ** k / factorial(2 * k + 1) for k in range(11)]
_COSH = [abs(c) for c in _COS]
_SINHC = [abs(c) for c in _SINC]
_ASINC = [factorial(2 * k) / (4**k * factorial(k) ** 2 * (2 * k + 1)) for k in range(16)]
_ASINHC = [(-1) ** k * c for k, c in enumerate(_ASINC)]
_ATANHC = [1 / (2 * k + 1) for k in range(16)]
_ATANC = [(-1) ** k * c for k, c in enumerate(_ATANHC)]
