"""Manifolds of matrices at their limits: injectivity radii, singular frames, any matrix, NaN, refused sizes."""

from __future__ import annotations

import math
from typing import Any

import matrix_points
import pytest
import torch
from matrix_points import f64, furthest

from noisegan.errors import NoiseganError
from noisegan.plugins.geometry.compact import Compact
from noisegan.plugins.geometry.grassmannian import Grassmannian
from noisegan.plugins.geometry.manifold import Manifold
from noisegan.plugins.geometry.so import SO
from noisegan.plugins.geometry.spd import SPDAffine, SPDBures, SPDLogEuclidean
from noisegan.plugins.geometry.stiefel import Stiefel

numbers = matrix_points.numbers


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
