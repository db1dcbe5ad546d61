"""The native manifolds of vectors against geomstats, in float64, to 1e-10."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from noisegan.plugins.geometry import Hyperboloid, Manifold, manifold
from noisegan.plugins.geometry.geomstats import import_geomstats

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("geomstats") is None, reason="needs the package geomstats"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # geomstats' products, numpy 2
]
N = 100
SPECS = (
    "euclidean(dim=3)",
    "sphere(dim=6)",
    "sphere(dim=1)",
    "poincare_ball(dim=3)",
    "hyperboloid(dim=5)",
    "torus(dim=3)",
    "sphere(dim=3)^4",
    "product(sphere(dim=2), poincare_ball(dim=2))",
)


@pytest.fixture(autouse=True)
def float64_constants() -> Iterator[None]:
    """geomstats makes its constants in torch's default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def space_of(spec: str) -> Any:
    """The same space in geomstats."""
    import_geomstats()

    def made(name: str, *sizes: Any) -> Any:
        module, _, attribute = name.partition(".")
        return getattr(importlib.import_module(f"geomstats.geometry.{module}"), attribute)(*sizes)

    sphere, ball = "hypersphere.Hypersphere", "poincare_ball.PoincareBall"
    return {
        "euclidean(dim=3)": lambda: made("euclidean.Euclidean", 3),
        "sphere(dim=6)": lambda: made(sphere, 6),
        "sphere(dim=1)": lambda: made(sphere, 1),
        "poincare_ball(dim=3)": lambda: made(ball, 3),
        "hyperboloid(dim=5)": lambda: made("hyperboloid.Hyperboloid", 5),
        "torus(dim=3)": lambda: made("nfold_manifold.NFoldManifold", made(sphere, 1), 3),
        "sphere(dim=3)^4": lambda: made("nfold_manifold.NFoldManifold", made(sphere, 3), 4),
        "product(sphere(dim=2), poincare_ball(dim=2))": lambda: made(
            "product_manifold.ProductManifold", [made(sphere, 2), made(ball, 2)]
        ),
    }[spec]()


def points_and_vectors(M: Manifold) -> tuple[Tensor, Tensor, Tensor]:
    """Points, tangent vectors within the injectivity radius, and vectors of the surrounding space."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(N, M.dim, generator=generator) / M.dim**0.5 for _ in range(2))
    o = M.origin(a).expand(N, *M.point_shape)
    x = M.exp(o, M.limit(o, M.from_normal(o, a)))
    return x, M.limit(x, M.from_normal(x, 1.2 * b)), torch.randn(N, *M.point_shape, generator=generator)


@pytest.mark.parametrize("spec", SPECS)
def test_native_maps_agree(spec: str) -> None:
    M, space = manifold(spec), space_of(spec)
    x, v, u = points_and_vectors(M)
    y = M.exp(x, v)
    w = M.log(x, y)
    assert (M.dim, y.shape[1:]) == (space.dim, M.point_shape)

    def there(t: Tensor) -> Tensor:
        return t.reshape(N, *space.shape)

    def agree(found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found, expected.reshape(found.shape), rtol=1e-10, atol=1e-10)

    metric = space.metric
    agree(y, metric.exp(there(v), there(x)))
    agree(w, metric.log(there(y), there(x)))
    agree(M.squared_dist(x, y), metric.squared_dist(there(x), there(y)))
    agree(M.dist(x, y), metric.dist(there(x), there(y)))
    agree(M.inner(x, v, w + v), metric.inner_product(there(v), there(w + v), there(x)))
    agree(M.to_tangent(x, u), space.to_tangent(there(u), there(x)))
    assert bool(space.belongs(there(y), atol=1e-10).all())
    if not isinstance(M, Hyperboloid):  # there a vector is scaled onto it, here it is put above its spatial part
        agree(M.project(1.1 * x), space.projection(there(1.1 * x)))


@pytest.mark.parametrize("spec", SPECS[:5])
def test_injectivity_radii_agree(spec: str) -> None:
    M, space = manifold(spec), space_of(spec)
    x, _, _ = points_and_vectors(M)
    torch.testing.assert_close(M.injectivity_radius(x), space.metric.injectivity_radius(x).expand(N))
