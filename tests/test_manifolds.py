"""Manifolds: their maps, smooth to second order where noise needs it, and what geomstats says of the same points."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from noisegan.plugins.geometry import Manifold, Product, Sphere, Torus, manifold, manifold_checks

SPECS = (
    "euclidean(dim=3)",
    "sphere(dim=3)",
    "sphere(dim=1)",
    "poincare_ball(dim=3)",
    "poincare_ball(dim=2, curvature=-0.3)",
    "hyperboloid(dim=3)",
    "torus(dim=3)",
    "sphere(dim=3)^2",
    "product(sphere(dim=2)^2, poincare_ball(dim=2), torus(dim=1))",
)
CHECKS_OF_ALL = [(spec, check) for spec in SPECS for check in manifold_checks(manifold(spec))]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "check", [check for _, check in CHECKS_OF_ALL], ids=[f"{spec}-{check.__name__}" for spec, check in CHECKS_OF_ALL]
)
def test_every_manifold_keeps_every_promise(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("M", [manifold(spec) for spec in SPECS], ids=SPECS)
@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_carried_noise_is_smooth_at_zero_strength_and_at_zero_features(M: Manifold, sigma: float, size: float) -> None:
    def noisy(features: Tensor, e: Tensor) -> Tensor:
        x, aside = M.carry(features)
        return M.bring_back(M.exp(x, M.limit(x, M.tangent_noise(x, e))), aside)

    features, e = size * normal(2, M.num_features), sigma * normal(2, M.num_normals, seed=1)
    if not sigma:
        torch.testing.assert_close(noisy(features, e), features, rtol=1e-14, atol=1e-15)
    if size or not isinstance(M, Sphere | Torus | Product):  # a core of 1e-3 is too steep to be differenced
        assert gradcheck(noisy, (features.requires_grad_(), e.requires_grad_()), fast_mode=True)
        assert gradgradcheck(noisy, (features, e), fast_mode=True)


@pytest.mark.parametrize("spec", SPECS)
def test_coordinates_may_lie_along_any_axis(spec: str) -> None:
    """Features [N, C, H, W] with axis=1 or axis=-3 give what [N, H, W, C] gives."""

    def all_of(M: Manifold, features: Tensor, xi: Tensor, e: Tensor) -> list[Tensor]:
        x, aside = M.carry(features)
        y = M.exp(x, M.limit(x, M.tangent_noise(x, e)))
        o = M.origin(x)
        v = M.limit(o, M.from_normal(o, xi))
        z = M.exp(o, v)
        return [
            M.bring_back(y, aside),
            M.to_normal(x, M.log(x, y)),
            M.to_normal(o, M.log(o, z)),
            M.bring_back(M.project(M.exp_normal(x, xi)), aside),
            M.dist(x, y),
            M.injectivity_radius(y),
            M.inner(x, M.to_tangent(x, x + 1), M.log(x, y)),
        ]

    M = manifold(spec)
    given = [normal(2, size, 3, 5, seed=i) for i, size in enumerate((M.num_features, M.dim, M.num_normals))]
    expected = all_of(M, *(t.movedim(1, -1) for t in given))
    for axis in (1, -3):
        for found, value in zip(all_of(manifold(spec, axis=axis), *given), expected, strict=True):
            if value.dim() == 4:
                value = value.movedim(-1, 1)
            torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12)
