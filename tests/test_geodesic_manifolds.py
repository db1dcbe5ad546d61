"""`geodesic` on every manifold: second derivatives where eigenvalues meet, what a strength is worth, flat products."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from geodesics import SITE, N, R, W, drawn, injector, normal

from noisegan.api import FeatureInjector
from noisegan.manager import Plugins

MANIFOLDS = (
    *("sphere", "poincare_ball", "hyperboloid", "'torus(dim=2)'", "spd_affine", "spd_logeuclidean", "spd_bures", "so"),
    *(
        "'stiefel(n=3, p=1)'",
        "'grassmannian(n=3, p=1)'",
        "'product(spd_bures(n=2), sphere(dim=2))'",
        "'spd_bures(n=2)^2'",
    ),
)


def six_channels(plugins: Plugins, expression: str) -> FeatureInjector:
    return injector(plugins, expression, site=dataclasses.replace(SITE, channels=6, in_channels=6))


@pytest.mark.parametrize("manifold", MANIFOLDS)
@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize("features", [(0, 0, 0), (0.7, 0.7, 0), (0.7, 0.7 + 1e-6, 0)], ids=["zero", "equal", "near"])
def test_second_derivatives_are_finite_and_tame_where_eigenvalues_meet(
    plugins: Plugins, manifold: str, strength: float, features: tuple[float, ...]
) -> None:
    """Matrices of two rows have these as their entries; for others they are features like any."""
    module = six_channels(plugins, f"geodesic(manifold={manifold}, strength={strength})")
    x = torch.tensor(features * 2, dtype=torch.float64).view(1, 6, 1, 1).expand(N, 6, R, R).clone().requires_grad_()
    e = drawn(module)
    (first,) = torch.autograd.grad(module(x, e, W).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert bool(first.isfinite().all())
    assert float(second.abs().max()) < (1e5 if any(features) else 1e9)  # a direction of zero features is steep


@pytest.mark.parametrize("manifold", [m for m in MANIFOLDS if "product" not in m and "^" not in m])
def test_a_strength_is_about_that_share_of_the_features(plugins: Plugins, manifold: str) -> None:
    """For features of unit variance; under the metric of Bures and Wasserstein it is twice that, see the page."""
    module = six_channels(plugins, f"geodesic(manifold={manifold}, strength=0.01)")
    x = normal("unit", 6, R, R)
    moved = (module(x, drawn(module), W) - x).detach().square().mean().sqrt() / 0.01
    low, high = (1.9, 2.6) if "bures" in manifold else (0.7, 1.5)
    assert low < float(moved) < high


def test_a_product_of_flat_spaces_is_flat(plugins: Plugins) -> None:
    module = six_channels(plugins, "geodesic(manifold='product(euclidean(dim=2), euclidean(dim=1)^4)', strength=3)")
    x, e = normal("unit", 6, R, R), drawn(module)
    torch.testing.assert_close(module(x, e, W), x + 3 * e)
