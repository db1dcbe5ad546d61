"""Manifolds: their maps, smooth to second order where noise needs it, and what geomstats says of the same points."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from noisegan.plugins.geometry import (
    NATIVE,
    Manifold,
    Product,
    Sphere,
    Torus,
    assert_manifold,
    manifold,
    manifold_checks,
)

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
MATRICES = (
    "spd_affine(n=2)",
    "spd_logeuclidean(n=2)",
    "spd_bures(n=2)",
    "so(n=3)",
    "grassmannian(n=4, p=2)",
    "stiefel(n=3, p=2)",
    "product(spd_affine(n=2), sphere(dim=2))",
)
CHECKS_OF_ALL = [(spec, check) for spec in SPECS for check in manifold_checks(manifold(spec))]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "check", [check for _, check in CHECKS_OF_ALL], ids=[f"{spec}-{check.__name__}" for spec, check in CHECKS_OF_ALL]
)
def test_every_manifold_keeps_every_promise(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("spec", MATRICES)
def test_every_manifold_of_matrices_keeps_every_promise(spec: str) -> None:
    assert_manifold(manifold(spec))


def test_every_native_manifold_is_checked() -> None:
    assert {type(manifold(spec)) for spec in (*SPECS, *MATRICES)} == set(NATIVE)


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


def test_a_sphere_wraps_around() -> None:
    M = Sphere(3)
    x = M.project(normal(5, 4))
    along = M.to_tangent(x, normal(5, 4, seed=1))
    along = along / along.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(M.exp(x, torch.pi * along), -x)
    torch.testing.assert_close(M.exp(x, 6 * torch.pi * along), x)
    torch.testing.assert_close(M.dist(x, -x), x.new_full((5,), torch.pi), rtol=0, atol=1e-5)
    antipode = (-x).requires_grad_()
    back = M.log(x, antipode)
    (gradient,) = torch.autograd.grad(back.sum() + M.dist(x, antipode).sum(), antipode)
    assert bool(back.isfinite().all() and gradient.isfinite().all())


def test_the_ball_and_the_hyperboloid_are_one_space() -> None:
    """Features are normal coordinates at the origin of either, so that distances and noise are the same."""
    ball, sheet = manifold("poincare_ball", dim=3), manifold("hyperboloid", dim=3)
    (x, _), (p, _) = (M.carry(normal(6, 3)) for M in (ball, sheet))
    (y, _), (q, _) = (M.carry(normal(6, 3, seed=1)) for M in (ball, sheet))
    torch.testing.assert_close(ball.dist(x, y), sheet.dist(p, q))
    torch.testing.assert_close(2 * x / (1 - x.square().sum(-1, keepdim=True)), p[:, 1:])


def test_curvature_is_a_unit_of_length() -> None:
    tight, unit = manifold("poincare_ball", dim=3, curvature=-4), manifold("poincare_ball", dim=3)
    (x, _), (p, _) = tight.carry(normal(6, 3)), unit.carry(2 * normal(6, 3))
    (y, _), (q, _) = tight.carry(normal(6, 3, seed=1)), unit.carry(2 * normal(6, 3, seed=1))
    torch.testing.assert_close(2 * tight.dist(x, y), unit.dist(p, q))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_breaks_beyond_the_rim_of_the_ball(dtype: torch.dtype) -> None:
    """At radius 40 rounding has lost the rim, and still values and gradients are finite."""
    M = manifold("poincare_ball", dim=3)
    f = (40 * unit_vectors(50)).to(dtype).requires_grad_()
    x, aside = M.carry(f)
    found = M.bring_back(M.exp(x, M.tangent_noise(x, normal(50, 3, seed=1).to(dtype))), aside)
    (gradient,) = torch.autograd.grad(found.sum(), f)
    assert bool(found.isfinite().all() and gradient.isfinite().all())
    assert bool((x.square().sum(-1) < 1).all())


def test_the_hyperboloid_is_exact_far_out_in_float32() -> None:
    """Features come back at any radius below 40, and noise in normal coordinates is exact there."""
    M = manifold("hyperboloid", dim=3)
    for radius in (1, 6, 12, 17, 40):
        f = (radius * unit_vectors(100)).float()
        torch.testing.assert_close(M.bring_back(*M.carry(f)), f, rtol=1e-6, atol=1e-6)
    f, xi = 17 * unit_vectors(100), normal(100, 3, seed=1)
    wide, narrow = (M.bring_back(M.exp_normal(M.carry(f.to(d))[0], xi.to(d)), None) for d in (f.dtype, torch.float32))
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-4)


def unit_vectors(count: int) -> Tensor:
    u = normal(count, 3)
    return u / u.norm(dim=-1, keepdim=True)
