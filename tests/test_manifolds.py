"""Manifolds: their maps, smooth to second order where noise needs it, and what geomstats says of the same points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from noisegan.plugins.geometry import Euclidean, Manifold, PoincareBall, Sphere

MANIFOLDS: list[Manifold] = [Euclidean(3), Sphere(3), Sphere(1), PoincareBall(3), PoincareBall(2, curvature=-0.3)]
every = pytest.mark.parametrize("M", MANIFOLDS, ids=lambda M: f"{M.name}-{M.dim}")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@every
def test_geodesics_have_the_length_of_their_velocity(M: Manifold) -> None:
    x, _ = M.carry(normal(5, M.num_features))
    xi = 0.8 * normal(5, M.dim, seed=1)
    v = M.from_normal(x, xi)
    y = M.exp(x, v)
    torch.testing.assert_close(M.dist(x, y), xi.norm(dim=-1), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(M.to_normal(x, M.log(x, y)), xi, rtol=1e-7, atol=1e-7)


@every
@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_carried_noise_is_smooth_at_zero_strength_and_at_zero_features(M: Manifold, sigma: float, size: float) -> None:
    def noisy(features: Tensor, e: Tensor) -> Tensor:
        x, aside = M.carry(features)
        return M.bring_back(M.exp(x, M.limit(x, M.tangent_noise(x, e))), aside)

    features, e = size * normal(2, M.num_features), sigma * normal(2, M.num_normals, seed=1)
    if not sigma:
        torch.testing.assert_close(noisy(features, e), features, rtol=1e-14, atol=1e-15)
    if size or not isinstance(M, Sphere):  # the derivatives of a sphere's core of 1e-3 are too steep to be differenced
        assert gradcheck(noisy, (features.requires_grad_(), e.requires_grad_()))
        assert gradgradcheck(noisy, (features, e))
