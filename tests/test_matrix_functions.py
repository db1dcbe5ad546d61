"""Functions of matrices: exponentials by products, logarithms and roots where eigenvalues meet, with derivatives."""

from __future__ import annotations

from collections.abc import Callable

import matrix_points
import numpy as np
import pytest
import scipy.linalg
import torch
from matrix_points import _smooth, f64, furthest
from torch import Tensor

from noisegan.plugins.geometry import spectral
from noisegan.plugins.geometry.matrices import expm, skew, skew_of, sym, symmetric_of

numbers = matrix_points.numbers


@pytest.mark.parametrize("radius", [1.0, 4.0, 8.0])
def test_the_exponential_by_products(radius: float, numbers: torch.Generator) -> None:
    for part in (sym, skew):
        a = part(torch.randn(50, 5, 5, dtype=f64, generator=numbers))
        a = radius * a / torch.linalg.matrix_norm(a, 2)[:, None, None]
        expected = torch.linalg.matrix_exp(a)
        size = torch.linalg.matrix_norm(expected)[:, None, None]
        assert furthest(expm(a) / size, expected / size) < 2e-14
        assert furthest(expm(a.float()) / size, expected / size) < 5e-6


def test_the_exponential_stays_positive_definite_far_out(numbers: torch.Generator) -> None:
    a = 20 * sym(torch.randn(50, 4, 4, dtype=f64, generator=numbers))
    eigenvalues = torch.linalg.eigvalsh(expm(a))
    assert bool((eigenvalues[:, 0] > -1e-14 * eigenvalues[:, -1]).all())


SPECTRA = {
    "spread": [0.01, 1.0, 30.0],
    "identity": [1.0, 1.0, 1.0],
    "pair": [1.0, 1.0, 3.0],
    "nearly a pair": [1.0, 1.0 + 1e-9, 3.0],
    "four apart": [1.0, 2.0, 4.0],
}


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("function", [spectral.log, spectral.root, spectral.inverse_root, spectral.positive_part])
def test_functions_of_symmetric_matrices(
    function: Callable[[Tensor], Tensor], spectrum: list[float], numbers: torch.Generator
) -> None:
    u, _ = torch.linalg.qr(torch.randn(3, 3, dtype=f64, generator=numbers))
    p = (u * torch.tensor(spectrum, dtype=f64)) @ u.mT
    reference = {"log": scipy.linalg.logm, "root": scipy.linalg.sqrtm, "positive_part": lambda p: p}
    name = function.__name__
    expected = reference[name](p.numpy()) if name in reference else np.linalg.inv(scipy.linalg.sqrtm(p.numpy()))
    np.testing.assert_allclose(function(p).numpy(), np.real(expected), atol=1e-11)
    p.requires_grad_()
    assert torch.autograd.gradcheck(function, (p,), eps=1e-7)
    assert torch.autograd.gradgradcheck(function, (p,), eps=1e-7, atol=1e-3, rtol=1e-3)


def test_third_derivative_of_the_logarithm(numbers: torch.Generator) -> None:
    for spectrum in ([1.0, 1.0, 1.0], [0.2, 1.0, 5.0]):
        p = torch.diag(torch.tensor(spectrum, dtype=f64))
        _smooth(spectral.log_derivative, p, torch.randn(3, 3, dtype=f64, generator=numbers))


def test_coordinates_are_isometries(numbers: torch.Generator) -> None:
    xi = torch.randn(4, 10, dtype=f64, generator=numbers)
    assert furthest(symmetric_of(xi, 4).square().sum((-2, -1)), xi.square().sum(-1)) < 1e-12
    assert furthest(skew_of(xi[:, :6], 4).square().sum((-2, -1)) / 2, xi[:, :6].square().sum(-1)) < 1e-12
