"""`kid`: the kernel distance, an unbiased estimate of MMD² with the kernel k(x, y) = (x·y / dim + 1)³.

Bińkowski et al. 2018 (arXiv:1801.01401), section 4; Gretton et al. 2012, lemma 6. All pairs of all images enter
instead of an average over random subsets, which has a larger variance and needs random numbers. The estimate has mean
zero for equal distributions, so it may be negative.

Its standard error comes from Hoeffding's decomposition of the U-statistic into uncorrelated terms. With
p = E_x k(x, ·), q = E_y k(·, y), and v the variance of a kernel whose row and column means were taken out,

Var = 4/n Var_x[p - q] + 4/m Var_y[q - p] + 2 v_xx / (n (n-1)) + 2 v_yy / (m (m-1)) + 4 v_xy / (n m).

Sutherland et al. 2017 (arXiv:1611.04488), appendix A, write it for n = m. Here each of the five is estimated without
bias: v_xx and v_yy by U-centring (Székely & Rizzo 2014, definition 2), v_xy as the interaction of a two-way table. The
last three are what remains for equal distributions, where an estimate from the first two alone would fail; there the
error comes out some 15 % too large, because a negative estimate of the first two is taken for zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from noisegan.api import FeaturePair, Metric, Score, hookimpl
from noisegan.errors import NoiseganError

BLOCK = 2000  # rows; a block of kernel values takes 32 MB
MINIMUM = 4  # the variance of a U-centred kernel divides by n (n - 3)


def kernel_distance(pair: FeaturePair) -> Score:
    """MMD² over all pairs, in float64, with its standard error over the draw of both sets of images.

    Raises:
        NoiseganError: for fewer than four images of a kind, or features that are not finite.
    """
    n, m = len(pair.real), len(pair.fake)
    if min(n, m) < MINIMUM:
        raise NoiseganError(
            f"KID needs at least {MINIMUM} real and {MINIMUM} generated images and got {n} and {m}; give more of them"
        )
    xx, yy = _within(pair.real), _within(pair.fake)
    xy = _between(pair.real, pair.fake)
    value = xx.total / (n * (n - 1)) + yy.total / (m * (m - 1)) - 2 * xy.total / (n * m)
    if not math.isfinite(value):
        raise NoiseganError("KID of features that are not finite; look at the images and the feature extractor")
    first, second = _variance(xx, yy, xy)
    return Score(value=value, std_error=math.sqrt(max(first, 0) + max(second, 0)))


@dataclass(frozen=True)
class _Sums:
    """Sums over a table of kernel values: of rows [n], of columns [m], of all, and of all squares."""

    rows: Tensor
    columns: Tensor
    squares: float

    @property
    def total(self) -> float:
        return self.rows.sum().item()

    def within_variance(self) -> float:
        """v_xx from a table of one set with itself, diagonal left out. Székely & Rizzo 2014, definition 2."""
        n = len(self.rows)
        centred = self.squares - 2 / (n - 2) * self.rows.square().sum().item() + self.total**2 / ((n - 1) * (n - 2))
        return centred / (n * (n - 3))

    def between_variance(self) -> float:
        """v_xy from a table of two sets: the mean square of the interaction."""
        n, m = len(self.rows), len(self.columns)
        rows, columns = self.rows.square().sum().item() / m, self.columns.square().sum().item() / n
        return (self.squares - rows - columns + self.total**2 / (n * m)) / ((n - 1) * (m - 1))


def _variance(xx: _Sums, yy: _Sums, xy: _Sums) -> tuple[float, float]:
    """The first two and the last three terms of the variance, without bias, so that they may fall below zero."""
    n, m = len(xy.rows), len(xy.columns)
    v_xx, v_yy, v_xy = xx.within_variance(), yy.within_variance(), xy.between_variance()
    # divided by n - 2 and not n - 1: image i is missing from its own mean of the others, which would shrink p
    x_witness = xx.rows / (n - 2) - xy.rows / m  # [n], p - q but for a constant and the noise taken out next
    y_witness = yy.rows / (m - 2) - xy.columns / n  # [m]
    x_variance = x_witness.var().item() - v_xx / (n - 2) - v_xy / m
    y_variance = y_witness.var().item() - v_yy / (m - 2) - v_xy / n
    second = 2 * v_xx / (n * (n - 1)) + 2 * v_yy / (m * (m - 1)) + 4 * v_xy / (n * m)
    return 4 * x_variance / n + 4 * y_variance / m, second


def _between(x: Tensor, y: Tensor) -> _Sums:
    """Sums over the kernel values of x [n, dim] and y [m, dim], block by block."""
    rows = torch.zeros(len(x), dtype=torch.float64)
    columns = torch.zeros(len(y), dtype=torch.float64)
    squares = 0.0
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            k = _kernel(x[i : i + BLOCK].double() @ y[j : j + BLOCK].double().T, x.shape[1])  # [BLOCK, BLOCK]
            rows[i : i + BLOCK] += k.sum(dim=1)
            columns[j : j + BLOCK] += k.sum(dim=0)
            squares += k.square().sum().item()
    return _Sums(rows, columns, squares)


def _within(x: Tensor) -> _Sums:
    """Sums over the kernel values of x [n, dim] with itself, without its diagonal."""
    sums = _between(x, x)
    diagonal = _kernel(x.double().square().sum(dim=1), x.shape[1])  # [n]
    return _Sums(sums.rows - diagonal, sums.columns - diagonal, sums.squares - diagonal.square().sum().item())


def _kernel(products: Tensor, dim: int) -> Tensor:
    return (products / dim + 1) ** 3


@hookimpl
def register_metrics(register: Callable[[str, Metric], None]) -> None:
    register(
        "kid",
        Metric(
            title="KID",
            better="lower",
            compute=kernel_distance,
            minimum=MINIMUM,
            reference="Bińkowski et al. 2018 (arXiv:1801.01401), section 4; standard error: Sutherland et al. 2017",
        ),
    )
