"""Manifolds of matrices: values against geomstats and the papers, two derivatives, frames, float32."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import matrix_points
import numpy as np
import pytest
import scipy.linalg
import torch
from matrix_points import _smooth, f64, furthest, points, tangents
from torch import Tensor

from noisegan.plugins.geometry.geomstats import import_geomstats
from noisegan.plugins.geometry.grassmannian import Grassmannian
from noisegan.plugins.geometry.manifold import Manifold
from noisegan.plugins.geometry.so import SO
from noisegan.plugins.geometry.spd import SPDAffine, SPDBures, SPDLogEuclidean
from noisegan.plugins.geometry.stiefel import Stiefel

numbers = matrix_points.numbers


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
