"""Rotations of R^n: orthogonal matrices of determinant one with their bi-invariant metric.

A tangent vector at R is R A with skew-symmetric A; <R A, R B> = tr(A^T B) / 2, so that a rotation by an angle t in one
plane is at distance t, and

    Exp_R(R A) = R exp(A)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisegan.errors import NoiseganError
from noisegan.plugins.geometry import spectral
from noisegan.plugins.geometry.compact import Compact
from noisegan.plugins.geometry.matrices import coordinates_of_skew, expm, eye, frobenius, skew, skew_of
from noisegan.plugins.geometry.precision import widened
from noisegan.plugins.geometry.vector import positive


class SO(Compact):
    """SO(n), points [n, n]. The injectivity radius is pi: two rotations by pi in a plane, one each way, meet there.
    (geomstats 2.8 returns pi sqrt(dim), which is too much for n > 2.)

    Args:
        n: size of the matrices, 2 or more.
    """

    name = "so"
    sizes = "n: rotation matrices, n x n"
    radius = "pi"
    at_zero = "smooth"
    frame = "global"
    bound = math.pi

    def __init__(self, n: int) -> None:
        spectral.compilable()
        self.n = positive(self.name, "n", n)
        if n == 1:
            raise NoiseganError("manifold 'so': n=1 is not allowed; give a whole number from 2")
        self.dim = n * (n - 1) // 2
        self.point_shape = (n, n)

    @widened
    def project(self, u: Tensor) -> Tensor:
        """U (U^T U)^(-1/2), the nearest rotation if det U > 0. If it is negative, the last column is turned round
        first; the step between the two is at det U = 0, where no projection is smooth."""
        sign = torch.where(torch.linalg.det(u.detach()) < 0, -1.0, 1.0).to(u.dtype)[..., None, None]
        last = torch.arange(self.n, device=u.device) == self.n - 1
        u = torch.where(last, sign * u, u)
        return u @ spectral.inverse_root(u.mT @ u)

    @widened
    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return x @ skew(x.mT @ u)

    @widened
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return frobenius(u, v) / 2

    @widened
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x @ expm(skew(x.mT @ v))

    @widened
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ spectral.rotation_log(x.mT @ y)

    def origin(self, like: Tensor) -> Tensor:
        return eye(self.n, like)

    @widened
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """R A with A the skew-symmetric matrix of xi: a group has a frame everywhere."""
        return x @ skew_of(xi, self.n)

    @widened
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        return coordinates_of_skew(x.mT @ v)
