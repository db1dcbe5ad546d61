"""Symmetric positive definite matrices under three metrics: what covariances of channel groups move on.

Features are carried the same way for all three: n(n+1)/2 of them are the entries of a symmetric matrix S, those beside
the diagonal over sqrt 2, and the point is P = exp S. They come back as log P. In float32 a round trip is good to
3e-7 (largest / smallest eigenvalue).

None of the maps differentiates an eigendecomposition: they are smooth at P = I and at equal eigenvalues.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisegan.plugins.geometry import spectral
from noisegan.plugins.geometry.manifold import Aside
from noisegan.plugins.geometry.matrices import (
    MatrixManifold,
    coordinates_of_symmetric,
    expm,
    eye,
    frobenius,
    sym,
    symmetric_of,
)
from noisegan.plugins.geometry.precision import widened
from noisegan.plugins.geometry.vector import positive


class _SPD(MatrixManifold):
    """Positive definite matrices [n, n] without a metric."""

    sizes = "n: symmetric positive definite n x n matrices"
    at_zero = "smooth"

    def __init__(self, n: int) -> None:
        spectral.compilable()
        self.n = positive(self.name, "n", n)
        self.dim = n * (n + 1) // 2
        self.point_shape = (n, n)

    @widened
    def project(self, u: Tensor) -> Tensor:
        """The symmetric part, its eigenvalues made positive smoothly; positive ones of order one stay."""
        return spectral.positive_part(u)

    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return sym(u)

    def injectivity_radius(self, x: Tensor) -> Tensor:
        return x.new_full((), math.inf).expand(x.shape[:-2])

    def feature_radius(self) -> float:
        """exp and log of matrices undo each other everywhere, whatever the metric."""
        return math.inf

    def origin(self, like: Tensor) -> Tensor:
        return eye(self.n, like)

    @widened
    def carry(self, features: Tensor) -> tuple[Tensor, Aside]:
        return expm(symmetric_of(features, self.n)), None

    @widened
    def bring_back(self, x: Tensor, aside: Aside) -> Tensor:
        return coordinates_of_symmetric(spectral.log(x))


class SPDAffine(_SPD):
    """The affine-invariant metric tr(P^-1 U P^-1 V) (Pennec, Fillard, Ayache 2006): complete, curved, without cut
    points. With P = L L^T by Cholesky,

        Exp_P(V) = L exp(L^-1 V L^-T) L^T

    the same for any factor L of P, so the roots of P that other texts write are not needed.

    Args:
        n: size of the matrices.
    """

    name = "spd_affine"
    radius = "infinite"
    frame = "global"

    @widened
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        factor = _cholesky(x)
        return frobenius(_whiten(factor, u), _whiten(factor, v))

    @widened
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        factor = _cholesky(x)
        return sym(factor @ expm(_whiten(factor, v)) @ factor.mT)

    @widened
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        factor = _cholesky(x)
        return sym(factor @ spectral.log(_whiten(factor, y)) @ factor.mT)

    @widened
    def squared_dist(self, x: Tensor, y: Tensor) -> Tensor:
        s = spectral.log(_whiten(_cholesky(x), y))
        return frobenius(s, s)

    @widened
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """L S L^T with S the symmetric matrix of xi; no singular point."""
        factor = _cholesky(x)
        return factor @ symmetric_of(xi, self.n) @ factor.mT

    @widened
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        return coordinates_of_symmetric(_whiten(_cholesky(x), v))

    @widened
    def exp_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        factor = _cholesky(x)
        return sym(factor @ expm(symmetric_of(xi, self.n)) @ factor.mT)


class SPDLogEuclidean(_SPD):
    """The log-Euclidean metric (Arsigny et al. 2007): flat, what the Frobenius metric is for S = log P.

        Exp_P(V) = exp(log P + D log(P)[V])

    Features carried here are S itself, so `exp_normal` of carried features is plain addition to them.

    Args:
        n: size of the matrices.
    """

    name = "spd_logeuclidean"
    radius = "infinite"
    frame = "global"

    @widened
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return frobenius(spectral.log_derivative(x, u), spectral.log_derivative(x, v))

    @widened
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return expm(spectral.log(x) + spectral.log_derivative(x, v))

    @widened
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        s = spectral.log(x)
        return _expm_derivative(s, spectral.log(y) - s)

    @widened
    def squared_dist(self, x: Tensor, y: Tensor) -> Tensor:
        s = spectral.log(y) - spectral.log(x)
        return frobenius(s, s)

    @widened
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """D exp(log P)[S] with S the symmetric matrix of xi; no singular point."""
        return _expm_derivative(spectral.log(x), symmetric_of(xi, self.n))

    @widened
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        return coordinates_of_symmetric(spectral.log_derivative(x, v))

    @widened
    def exp_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        return expm(spectral.log(x) + symmetric_of(xi, self.n))


class SPDBures(_SPD):
    """The Bures-Wasserstein metric (Bhatia, Jain, Lim 2017), the optimal transport distance of centred Gaussians.

    A tangent vector is V = X P + P X with symmetric X; <V, V> = tr(X P X) and

        Exp_P(V) = (I + X) P (I + X)

    Beyond the injectivity radius the result is still positive semidefinite, but no longer the end of a shortest path.
    With P = L L^T the map A -> A A^T takes Frobenius geometry to this one: E L^T + L E^T with a square matrix E of
    standard normals is isotropic noise, without a frame.

    Args:
        n: size of the matrices.
    """

    name = "spd_bures"
    radius = "the root of the smallest eigenvalue"
    frame = "global"

    @property
    def num_normals(self) -> int:
        return self.n**2

    @widened
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return frobenius(u, spectral.lyapunov(x, v)) / 2

    @widened
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        half = spectral.lyapunov(x, v)
        return x + v + half @ x @ half

    @widened
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """(P Q)^(1/2) + (Q P)^(1/2) - 2 P, with (Q P)^(1/2) = L^-T (L^T Q L)^(1/2) L^T."""
        factor = _cholesky(x)
        r = spectral.root(factor.mT @ y @ factor)
        product: Tensor = torch.linalg.solve_triangular(factor.mT, r @ factor.mT, upper=True)
        return product + product.mT - 2 * x

    @widened
    def injectivity_radius(self, x: Tensor) -> Tensor:
        return spectral.smallest(x).clamp_min(0).sqrt()

    @widened
    def smooth_radius(self, x: Tensor) -> Tensor:
        """|P^-1|_F^(-1/2): smooth where eigenvalues meet, and less than the root of the smallest eigenvalue by a factor
        of n^(1/4) at most."""
        inverse = torch.cholesky_inverse(_cholesky(x))
        return frobenius(inverse, inverse) ** -0.25

    @widened
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """X P + P X with X orthonormal for tr(X P X), by the Cholesky factor of this form's matrix; no singular point.

        The form has n(n+1)/2 rows: meant for small n. `tangent_noise` does without.
        """
        form = self._form(x)
        half = torch.linalg.solve_triangular(form.mT, xi.unsqueeze(-1), upper=True).squeeze(-1)
        product = symmetric_of(half, self.n) @ x
        return product + product.mT

    @widened
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        half = coordinates_of_symmetric(spectral.lyapunov(x, v))
        return (self._form(x).mT @ half.unsqueeze(-1)).squeeze(-1)

    @widened
    def tangent_noise(self, x: Tensor, e: Tensor) -> Tensor:
        """E L^T + L E^T; e [..., n^2] is E row by row."""
        product: Tensor = e.unflatten(-1, (self.n, self.n)) @ _cholesky(x).mT
        return product + product.mT

    def _form(self, x: Tensor) -> Tensor:
        """The Cholesky factor of X -> tr(X P X) in coordinates, [..., dim, dim]."""
        basis = symmetric_of(eye(self.dim, x), self.n)  # [dim, n, n]
        return _cholesky(torch.einsum("aij,...jk,bki->...ab", basis, x, basis))


def _cholesky(p: Tensor) -> Tensor:
    """L with L L^T = P; NaN where P is not positive definite, without waiting for the device to say so."""
    factor, info = torch.linalg.cholesky_ex(sym(p))
    return torch.where((info == 0)[..., None, None], factor, math.nan)


def _whiten(factor: Tensor, v: Tensor) -> Tensor:
    """L^-1 V L^-T for symmetric V, [..., n, n]."""
    left = torch.linalg.solve_triangular(factor, sym(v), upper=False)
    white: Tensor = torch.linalg.solve_triangular(factor, left.mT, upper=False)
    return white


def _expm_derivative(s: Tensor, n: Tensor) -> Tensor:
    """D exp(S)[N], the corner of exp of the block matrix (S N; 0 S)."""
    s, n = torch.broadcast_tensors(s, n)
    size = s.shape[-1]
    block = torch.cat((torch.cat((s, n), -1), torch.cat((torch.zeros_like(s), s), -1)), -2)
    return sym(expm(block)[..., :size, size:])
