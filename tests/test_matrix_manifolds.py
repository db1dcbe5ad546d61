"""Manifolds of matrices: values against geomstats, derivatives where eigenvalues meet, frames, float32."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from noisegan.errors import NoiseganError
from noisegan.plugins.geometry import spectral
from noisegan.plugins.geometry.compact import Compact
from noisegan.plugins.geometry.geomstats import import_geomstats
from noisegan.plugins.geometry.grassmannian import Grassmannian
from noisegan.plugins.geometry.manifold import Manifold
from noisegan.plugins.geometry.matrices import expm, skew, skew_of, sym, symmetric_of
from noisegan.plugins.geometry.so import SO
from noisegan.plugins.geometry.spd import SPDAffine, SPDBures, SPDLogEuclidean
from noisegan.plugins.geometry.stiefel import Stiefel

f64 = torch.float64


@dataclass(frozen=True)
class Case:
    manifold: Manifold
    space: Callable[[], Any]
    """The same in geomstats, with its metric."""
    float32: float
    """What exp, log and distance differ by at most, float32 from float64, for points and tangents of order one."""

    def __str__(self) -> str:
        return f"{self.manifold.name}{self.manifold.point_shape}"


def _spd(metric: str, n: int) -> Callable[[], Any]:
    def make() -> Any:
        module = importlib.import_module("geomstats.geometry.spd_matrices")
        space = module.SPDMatrices(n, equip=False)
        space.equip_with_metric(getattr(module, metric))
        return space

    return make


def _space(module: str, name: str, *sizes: int) -> Callable[[], Any]:
    return lambda: getattr(importlib.import_module(f"geomstats.geometry.{module}"), name)(*sizes)


CASES = [
    Case(SPDAffine(3), _spd("SPDAffineMetric", 3), 3e-5),
    Case(SPDAffine(2), _spd("SPDAffineMetric", 2), 3e-5),
    Case(SPDLogEuclidean(3), _spd("SPDLogEuclideanMetric", 3), 3e-5),
    Case(SPDBures(3), _spd("SPDBuresWassersteinMetric", 3), 3e-5),
    Case(SO(3), _space("special_orthogonal", "SpecialOrthogonal", 3), 1e-5),
    Case(SO(4), _space("special_orthogonal", "SpecialOrthogonal", 4), 1e-5),
    Case(Grassmannian(4, 2), _space("grassmannian", "Grassmannian", 4, 2), 1e-5),
    Case(Grassmannian(3, 1), _space("grassmannian", "Grassmannian", 3, 1), 1e-5),
    Case(Stiefel(4, 2), _space("stiefel", "Stiefel", 4, 2), 1e-5),
    Case(Stiefel(4, 3), _space("stiefel", "Stiefel", 4, 3), 1e-5),
]

each = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    """geomstats makes its constants in the default dtype."""
    import_geomstats()
    before = torch.get_default_dtype()
    torch.set_default_dtype(f64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def numbers() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def points(m: Manifold, count: int, g: torch.Generator) -> Tensor:
    return m.carry(0.5 * torch.randn(count, m.num_features, dtype=f64, generator=g))[0]


def tangents(m: Manifold, x: Tensor, g: torch.Generator, length: float = 1.0) -> Tensor:
    """Inside the injectivity radius."""
    xi = torch.randn(len(x), m.dim, dtype=f64, generator=g)
    xi = length * xi / xi.norm(dim=-1, keepdim=True)
    return m.limit(x, m.from_normal(x, xi), 0.9)


def furthest(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


@each
@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # geomstats' logm with numpy 2
def test_values_are_those_of_geomstats(case: Case, numbers: torch.Generator) -> None:
    m, space = case.manifold, case.space()
    assert space.dim == m.dim
    x = points(m, 6, numbers)
    u, v = tangents(m, x, numbers), tangents(m, x, numbers)
    y = m.exp(x, tangents(m, x, numbers, 0.8))
    assert bool(space.belongs(x, atol=1e-10).all())
    assert bool(space.belongs(y, atol=1e-10).all())
    assert bool(space.is_tangent(v, x, atol=1e-10).all())
    assert furthest(m.exp(x, v), space.metric.exp(v, x)) < 1e-10
    assert furthest(m.inner(x, u, v), space.metric.inner_product(u, v, x)) < 1e-10
    tight = 1e-7 if m.name == "stiefel" else 1e-10  # geomstats' logarithm there stops at 1e-8
    assert furthest(m.log(x, y), space.metric.log(y, x)) < tight
    assert furthest(m.dist(x, y), space.metric.dist(y, x)) < tight
    assert furthest(m.to_tangent(x, x + u + 0.1), space.to_tangent(x + u + 0.1, x)) < 1e-10


@each
def test_log_undoes_exp_and_geodesics_have_the_length_of_their_velocity(case: Case, numbers: torch.Generator) -> None:
    m = case.manifold
    x = points(m, 6, numbers)
    v = tangents(m, x, numbers, 1.5)
    y = m.exp(x, v)
    assert furthest(m.log(x, y), v) < 1e-9
    assert furthest(m.dist(x, y), m.inner(x, v, v).sqrt()) < 1e-9
    assert furthest(m.project(y), y) < 1e-9
    assert furthest(m.to_tangent(x, v), v) < 1e-12


@each
def test_features_come_back(case: Case, numbers: torch.Generator) -> None:
    m = case.manifold
    features = torch.randn(5, m.num_features, dtype=f64, generator=numbers)
    assert furthest(m.bring_back(*m.carry(features)), features) < 1e-9
    features = features.float()
    back = m.bring_back(*m.carry(features))
    assert back.dtype == torch.float32
    assert furthest(back, features) < 1e-3


@each
def test_the_frame_is_orthonormal_and_noise_isotropic(case: Case, numbers: torch.Generator) -> None:
    m = case.manifold
    x = points(m, 3, numbers)
    basis = m.from_normal(x[:, None, ...], torch.eye(m.dim, dtype=f64))  # [3, dim, *point_shape]
    at = x[:, None, None]
    gram = m.inner(at, basis[:, :, None], basis[:, None])
    assert furthest(gram, torch.eye(m.dim, dtype=f64).expand_as(gram)) < 1e-10
    assert furthest(m.to_tangent(x[:, None], basis), basis) < 1e-10
    coordinates = m.to_normal(x[:, None], basis)
    assert furthest(coordinates, torch.eye(m.dim, dtype=f64).expand_as(coordinates)) < 1e-10
    noise = m.tangent_noise(x[:, None], torch.eye(m.num_normals, dtype=f64))  # [3, num_normals, *point_shape]
    assert furthest(m.to_tangent(x[:, None], noise), noise) < 1e-10
    noise = m.to_normal(x[:, None], noise)
    covariance = noise.mT @ noise
    assert furthest(covariance, torch.eye(m.dim, dtype=f64).expand_as(covariance)) < 1e-10
    xi = torch.randn(3, m.dim, dtype=f64, generator=numbers)
    assert furthest(m.exp_normal(x, xi), m.exp(x, m.from_normal(x, xi))) < 1e-9


def _smooth(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    inputs = tuple(each.detach().clone().requires_grad_() for each in inputs)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, atol=1e-4, fast_mode=True)


@each
@pytest.mark.parametrize("where", ["generic", "origin"])
@pytest.mark.parametrize("zero", [False, True])
def test_exp_is_differentiable_twice(case: Case, where: str, zero: bool, numbers: torch.Generator) -> None:
    m = case.manifold
    x = points(m, 1, numbers)
    if where == "origin":
        x = m.origin(x)[None]
    v = tangents(m, x, numbers)

    def moved(a: Tensor, b: Tensor) -> Tensor:
        """Through `project` and `to_tangent`, which keep the small steps of the check on the manifold."""
        x = m.project(a)
        return m.exp(x, m.limit(x, m.to_tangent(x, b)))

    _smooth(moved, x, 0 * v if zero else v)


@each
@pytest.mark.parametrize("where", ["generic", "same", "origin"])
def test_log_is_differentiable_twice(case: Case, where: str, numbers: torch.Generator) -> None:
    m = case.manifold
    x, y = points(m, 1, numbers), points(m, 1, numbers)
    if where == "same":
        y = x
    if where == "origin":
        x = y = m.origin(x)[None]
    _smooth(lambda a, b: m.log(m.project(a), m.project(b)), x, y)
    _smooth(lambda a, b: m.squared_dist(m.project(a), m.project(b)), x, y)


@each
def test_carried_features_and_frames_are_differentiable_twice(case: Case, numbers: torch.Generator) -> None:
    m = case.manifold
    features = torch.randn(1, m.num_features, dtype=f64, generator=numbers)
    e = torch.randn(1, m.num_normals, dtype=f64, generator=numbers)
    xi = torch.randn(1, m.dim, dtype=f64, generator=numbers)

    def noisy(f: Tensor, e: Tensor, xi: Tensor) -> Tensor:
        x, aside = m.carry(f)
        y = m.exp(x, m.limit(x, 0.1 * m.tangent_noise(x, e) + m.from_normal(x, 0.1 * xi)))
        return m.bring_back(y, aside)

    _smooth(noisy, features, e, xi)
    _smooth(noisy, 0 * features, 0 * e, 0 * xi)


@each
def test_float32_is_close_and_stays(case: Case, numbers: torch.Generator) -> None:
    m = case.manifold
    x = points(m, 200, numbers)
    v = tangents(m, x, numbers)
    y = m.exp(x, tangents(m, x, numbers))
    for function, inputs in ((m.exp, (x, v)), (m.log, (x, y)), (m.dist, (x, y)), (m.inner, (x, v, v))):
        result = function(*(each.float() for each in inputs))
        assert result.dtype == torch.float32
        assert furthest(result, function(*inputs)) < case.float32, function
    for low in (torch.bfloat16, torch.float16):
        result = m.exp(x.to(low), v.to(low))
        assert result.dtype == low
        assert furthest(result, m.exp(x, v)) < 0.5


@each
def test_shapes_broadcast_over_any_leading_dimensions(case: Case, numbers: torch.Generator) -> None:
    m = case.manifold
    x = points(m, 2, numbers).reshape(2, 1, *m.point_shape)
    features = torch.randn(2, 3, m.num_features, dtype=f64, generator=numbers)
    y, _ = m.carry(features)
    v = m.log(x, y)
    assert v.shape == y.shape == (2, 3, *m.point_shape)
    assert m.dist(x, y).shape == (2, 3)
    assert m.exp(x, v).shape == (2, 3, *m.point_shape)
    assert m.injectivity_radius(y).shape == (2, 3)
    assert furthest(m.exp(x[1], v[1]), m.exp(x, v)[1]) < 1e-12
    assert m.origin(x).shape == m.point_shape
    _, aside = m.carry(torch.zeros(m.num_features, dtype=f64))
    assert furthest(m.bring_back(m.origin(x), aside), torch.zeros(m.num_features)) < 1e-12


@each
def test_sigma_leaves_zero_with_the_right_derivative(case: Case, numbers: torch.Generator) -> None:
    m = case.manifold
    x = points(m, 3, numbers)
    v = tangents(m, x, numbers)
    sigma = torch.zeros((), dtype=f64, requires_grad=True)
    assert furthest(m.exp(x, sigma * v), x) < 1e-12
    derivative = torch.autograd.functional.jacobian(lambda s: m.exp(x, s * v), sigma)
    assert furthest(derivative, v) < 1e-12


@pytest.mark.parametrize("metric", [SPDAffine, SPDLogEuclidean, SPDBures])
def test_maps_of_positive_definite_matrices_as_their_papers_write_them(
    metric: type[Manifold], numbers: torch.Generator
) -> None:
    m = metric(3)  # type: ignore[call-arg]
    x = points(m, 1, numbers)
    v = tangents(m, x, numbers)
    p, w = x[0].numpy(), v[0].numpy()
    if metric is SPDAffine:
        root = np.real(scipy.linalg.sqrtm(p))
        inverse = np.linalg.inv(root)
        expected = root @ scipy.linalg.expm(inverse @ w @ inverse) @ root
    elif metric is SPDBures:
        half = np.eye(3) + scipy.linalg.solve_sylvester(p, p, w)
        expected = half @ p @ half
    else:
        h = 1e-5
        slope = (scipy.linalg.logm(p + h * w) - scipy.linalg.logm(p - h * w)) / (2 * h)
        expected = scipy.linalg.expm(scipy.linalg.logm(p) + slope)
    np.testing.assert_allclose(m.exp(x, v)[0].numpy(), expected, atol=1e-8 if metric is SPDLogEuclidean else 1e-12)


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


@pytest.mark.parametrize("m", [Stiefel(3, 1), Stiefel(5, 2), Stiefel(5, 4), Stiefel(6, 3)], ids=lambda m: str(m.dim))
def test_frames_are_found_again_up_to_the_injectivity_radius(m: Stiefel, numbers: torch.Generator) -> None:
    for length in (2.0, 0.88 * math.pi):
        xi = torch.randn(50, m.dim, dtype=f64, generator=numbers)
        xi = length * xi / xi.norm(dim=-1, keepdim=True)
        o = m.origin(xi)
        v = m.from_normal(o, xi)
        assert furthest(m.log(o, m.exp(o, v)), v) < 1e-8
        o, y = o.float(), m.exp(o, v).float()
        assert furthest(m.log(o, y), v) < 1e-4


def test_a_frame_ends_where_quotient_geometry_says(numbers: torch.Generator) -> None:
    """Edelman, Arias, Smith 1998, eq. 2.42: Exp_X(V) = X M + Q N with (M; N) the first columns of exp (A -R^T; R 0)."""
    m = Stiefel(5, 2)
    x = points(m, 1, numbers)
    v = tangents(m, x, numbers, 2.0)
    p, w = x[0].numpy(), v[0].numpy()
    a = p.T @ w
    q, r = np.linalg.qr(w - p @ a)
    blocks = scipy.linalg.expm(np.block([[a, -r.T], [r, np.zeros((2, 2))]]))[:, :2]
    np.testing.assert_allclose(m.exp(x, v)[0].numpy(), p @ blocks[:2] + q @ blocks[2:], atol=1e-13)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_opposite_ways_round_meet_at_the_injectivity_radius_of_rotations(n: int) -> None:
    m = SO(n)
    o = m.origin(torch.zeros((), dtype=f64))
    v = m.from_normal(o, math.pi * torch.eye(m.dim, dtype=f64)[0])
    assert furthest(m.exp(o, v), m.exp(o, -v)) < 1e-12
    assert m.injectivity_radius(o) == math.pi
    assert m.dist(o, m.exp(o, 0.99 * v)).item() == pytest.approx(0.99 * math.pi, abs=1e-10)
    assert m.dist(o, m.exp(o, 1.01 * v)).item() == pytest.approx(0.99 * math.pi, abs=1e-10)


def test_opposite_ways_round_meet_at_the_injectivity_radius_of_subspaces() -> None:
    m = Grassmannian(4, 2)
    o = m.origin(torch.zeros((), dtype=f64))
    v = m.from_normal(o, math.pi / math.sqrt(2) * torch.eye(m.dim, dtype=f64)[0])
    assert furthest(m.exp(o, v), m.exp(o, -v)) < 1e-12
    assert m.injectivity_radius(o) == pytest.approx(math.pi / math.sqrt(2))


@pytest.mark.parametrize("m", [SO(3), Stiefel(4, 2), Grassmannian(3, 1), Grassmannian(4, 2)], ids=lambda m: m.name)
def test_noise_of_any_length_leaves_features_of_their_size(m: Compact, numbers: torch.Generator) -> None:
    """In float32, through and beyond where the logarithm at the origin jumps."""
    f = torch.randn(4000, m.num_features, generator=numbers)
    e = torch.randn(4000, m.num_normals, generator=numbers)
    sigma = torch.tensor(1.0, requires_grad=True)
    x, aside = m.carry(f)
    out = m.bring_back(m.exp(x, m.limit(x, sigma * m.tangent_noise(x, e))), aside)
    (gradient,) = torch.autograd.grad(out.square().sum(), sigma)
    assert bool(gradient.isfinite())
    stretch = (1 + f.square().sum(-1) / m.reach**2).sqrt()
    assert (out.norm(dim=-1) / stretch).max() < 3 * m.bound  # the logarithm of a point further away is a little longer


@pytest.mark.parametrize("make", [SO, SPDAffine, SPDLogEuclidean, SPDBures])
def test_what_is_not_finite_stays_so_and_does_not_raise(make: Any) -> None:
    """A training step then says which of its losses is not finite."""
    m = make(3)
    f = torch.zeros(2, m.num_features)
    f[1] = math.nan
    x, aside = m.carry(f)
    m.injectivity_radius(x)
    back = m.bring_back(x, aside)
    assert bool((back[0] == 0).all())
    assert bool(back[1].isnan().any())


@pytest.mark.parametrize("m", [SO(3), Stiefel(4, 2), Grassmannian(4, 2)], ids=lambda m: m.name)
def test_any_matrix_is_projected(m: Manifold, numbers: torch.Generator) -> None:
    u = torch.randn(20, *m.point_shape, dtype=f64, generator=numbers)
    x = m.project(u)
    one = torch.eye(x.shape[-1], dtype=f64).expand(20, -1, -1)
    if isinstance(m, Grassmannian):
        assert furthest(x @ x, x) < 1e-12
        assert furthest(x, x.mT) < 1e-12
        assert furthest(x.diagonal(dim1=-2, dim2=-1).sum(-1), torch.full((20,), 2.0)) < 1e-12
    else:
        assert furthest(x.mT @ x, one) < 1e-9
    if isinstance(m, SO):
        assert furthest(torch.linalg.det(x), torch.ones(20)) < 1e-9


def test_impossible_shapes_are_refused() -> None:
    for make, sentence in (
        (lambda: SO(1), "manifold 'so': n=1 is not allowed; give a whole number from 2"),
        (lambda: Grassmannian(3, 3), "manifold 'grassmannian': p=3 is not allowed; give less than n=3"),
        (lambda: Stiefel(2, 4), "manifold 'stiefel': p=4 is not allowed; give less than n=2"),
        (lambda: Stiefel(2, 0), "manifold 'stiefel': p=0 is not allowed; give a whole number from 1"),
    ):
        with pytest.raises(NoiseganError) as caught:
            make()
        assert str(caught.value) == sentence


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3"])
def test_sizes_are_checked(n: object) -> None:
    with pytest.raises(NoiseganError) as caught:
        SPDAffine(n)  # type: ignore[arg-type]
    assert str(caught.value) == f"manifold 'spd_affine': n={n!r} is not allowed; give a whole number from 1"


def test_frames_at_their_singular_points_do_not_stop_the_process() -> None:
    """Stiefel: where X_1 has the eigenvalue -1. Grassmannian: a subspace orthogonal to the first axes."""
    frames = Stiefel(3, 2)
    opposite = -frames.origin(torch.zeros((), dtype=torch.float64))
    assert not bool(frames.from_normal(opposite, torch.ones(frames.dim, dtype=torch.float64)).isfinite().all())
    lines = Grassmannian(3, 1)
    across = torch.diag(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    v = lines.from_normal(across, torch.ones(2, dtype=torch.float64))
    assert bool(v.isfinite().all())
    assert float(lines.inner(across, v, v)) < 2 - 1e-3
