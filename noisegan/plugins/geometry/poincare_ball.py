"""Hyperbolic space as a ball: distances grow without bound towards its rim.

For curvature -1, with no norm anywhere (metric 4 |v|^2 / (1 - |x|^2)^2, a = 1 - |x|^2):

    f = tanhc(|v|^2/a^2) / a,  m = f <x,v>,  n = f^2 |v|^2
    Exp_x(v) = ((1 + 2m + n) x + a f v) / (1 + 2m + n |x|^2)

Curvature -c is the same ball with everything measured in units of 1/sqrt(c). In float32 the rim is lost beyond a
radius of about 15 / sqrt(c) from the centre, where 1 - |x| reaches the rounding error; from 12 on, distances are good
to one per cent only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisegan.errors import NoiseganError
from noisegan.plugins.geometry.functions import asinhc_sqrt, atanhc_sqrt, tanhc_sqrt
from noisegan.plugins.geometry.manifold import Aside
from noisegan.plugins.geometry.precision import widened
from noisegan.plugins.geometry.vector import VectorManifold


class PoincareBall(VectorManifold):
    """The Poincare ball of dimension dim and constant curvature, points in R^dim with |x| < 1 / sqrt(-curvature).

    Raises:
        NoiseganError: for a dimension that is not a positive whole number or a curvature that is not negative.
    """

    name = "poincare_ball"
    sizes = "dim: points in the ball of R^dim; curvature=-1"
    radius = "infinite"
    at_zero = "smooth"
    frame = "global"

    def __init__(self, dim: int, *, curvature: float = -1.0, axis: int = -1) -> None:
        super().__init__(dim, axis=axis)
        if isinstance(curvature, bool) or not isinstance(curvature, int | float) or not -math.inf < curvature < 0:
            raise NoiseganError(
                f"manifold 'poincare_ball': curvature={curvature!r} is not allowed; give a negative number"
            )
        self.curvature = float(curvature)
        self._k = -self.curvature

    @widened
    def project(self, u: Tensor) -> Tensor:
        """u itself inside the ball, the rim's last point that rounding can tell from it outside."""
        return self._inside(u)

    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u

    @widened
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.drop(4 * self.dot(u, v) / self._gap(x).square())

    @widened
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        k, a = self._k, self._gap(x)
        square = self.dot(v, v)
        f = tanhc_sqrt(k * square / a.square()) / a
        m, n = k * f * self.dot(x, v), k * f.square() * square
        below = 1 + 2 * m + n * (1 - a)
        return self._inside(torch.addcmul((1 + 2 * m + n) / below * x, a * f / below, v))

    @widened
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """With d = |y - x|^2 (curvature -1), a and b the gaps of x and y and s = d / (a b) = sinh^2(half the distance):
        a asinhc(s) sqrt(1 + s) (a (y - x) - d x) / (d + a b), smooth at y = x."""
        k, a, b, chord = self._k, self._gap(x), self._gap(y), y - x
        d = k * self.dot(chord, chord)
        s = d / (a * b)
        scale = a * asinhc_sqrt(s) * (1 + s).sqrt() / (d + a * b)
        return scale * (a * chord - d * x)

    @widened
    def squared_dist(self, x: Tensor, y: Tensor) -> Tensor:
        chord = y - x
        s = self._k * self.dot(chord, chord) / (self._gap(x) * self._gap(y))
        return self.drop(4 / self._k * s * asinhc_sqrt(s).square())

    def injectivity_radius(self, x: Tensor) -> Tensor:
        return self.constant(math.inf, x)

    def origin(self, like: Tensor) -> Tensor:
        return self.lay(like.new_zeros(self.dim), like)

    @widened
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        return self._gap(x) / 2 * xi

    @widened
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        return 2 / self._gap(x) * v

    @widened
    def carry(self, features: Tensor) -> tuple[Tensor, Aside]:
        """Exp at the centre: features are normal coordinates there."""
        return self._inside(tanhc_sqrt(self._k * self.dot(features, features) / 4) / 2 * features), None

    @widened
    def bring_back(self, x: Tensor, aside: Aside) -> Tensor:
        return 2 * atanhc_sqrt(self._k * self.dot(x, x)) * x

    def _gap(self, x: Tensor) -> Tensor:
        """1 - |x|^2 for curvature -1: how far from the rim, and half the inverse of the metric's length scale."""
        return 1 - self._k * self.dot(x, x)

    def _inside(self, x: Tensor) -> Tensor:
        """x, held inside the rim where rounding has put it on or beyond it."""
        most = 1 - 4 * torch.finfo(x.dtype).eps
        square = self._k * self.dot(x, x)
        beyond = square > most**2
        return torch.where(beyond, most * torch.where(beyond, square, 1).rsqrt(), 1) * x
