"""Hyperbolic space as a sheet of the hyperboloid: exact to rounding far out, where the ball has run out of digits.

Points (x_0, x_s) in R^(dim+1) with <x,x> = -1 and x_0 > 0 in <x,y> = -x_0 y_0 + x_s y_s:

    Exp_x(v) = cosh(sqrt q) x + sinh(sqrt q)/sqrt q v,    q = <v,v>

Far from the origin <v,v> is a small difference of large squares. Everything here uses the spatial parts only: q is the
squared length of the normal coordinates of v, and x_0 is always sqrt(1 + |x_s|^2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisegan.plugins.geometry.functions import asinhc_sqrt, cosh_sqrt, sinhc_sqrt
from noisegan.plugins.geometry.manifold import Aside
from noisegan.plugins.geometry.precision import widened
from noisegan.plugins.geometry.vector import VectorManifold


class Hyperboloid(VectorManifold):
    """Hyperbolic space of dimension dim and curvature -1, points in R^(dim+1)."""

    name = "hyperboloid"
    sizes = "dim: points in R^(dim+1)"
    radius = "infinite"
    at_zero = "smooth"
    frame = "global"

    @property
    def num_coordinates(self) -> int:
        return self.dim + 1

    @widened
    def project(self, u: Tensor) -> Tensor:
        """The point above the spatial part of u."""
        return self._above(self.rest(u))

    @widened
    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """u + <x,u> x: orthogonal to x in the Lorentz product."""
        p = self.dot(self.rest(x), self.rest(u)) - self.first(x) * self.first(u)
        return u + p * x

    @widened
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.drop(self.dot(self.to_normal(x, u), self.to_normal(x, v)))

    @widened
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        xi = self.to_normal(x, v)
        return self._exp(x, self.rest(v), self.dot(xi, xi))

    @widened
    def exp_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        return self._exp(x, self.rest(self.from_normal(x, xi)), self.dot(xi, xi))

    @widened
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """With c = <y - x, y - x> = 4 sinh^2(half the distance): asinhc(c/4) / sqrt(1 + c/4) (y - x - c/2 x)."""
        xs = self.rest(x)
        c = self._squared_chord(x, y)
        vs = asinhc_sqrt(c / 4) * (1 + c / 4).rsqrt() * (self.rest(y) - xs - c / 2 * xs)
        return self.join(self.dot(xs, vs) / self.first(x), vs)

    @widened
    def squared_dist(self, x: Tensor, y: Tensor) -> Tensor:
        c = self._squared_chord(x, y)
        return self.drop(c * asinhc_sqrt(c / 4).square())

    def injectivity_radius(self, x: Tensor) -> Tensor:
        return self.constant(math.inf, x)

    def origin(self, like: Tensor) -> Tensor:
        return self.lay(torch.eye(1, self.dim + 1, dtype=like.dtype, device=like.device)[0], like)  # (1, 0)

    @widened
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """(<x_s,xi>, xi + <x_s,xi> / (1 + x_0) x_s): the frame carried from the origin along geodesics."""
        xs = self.rest(x)
        p = self.dot(xs, xi)
        return self.join(p, xi + p / (1 + self.first(x)) * xs)

    @widened
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        x0, xs, vs = self.first(x), self.rest(x), self.rest(v)
        return vs - self.dot(xs, vs) / (x0 * (1 + x0)) * xs

    @widened
    def carry(self, features: Tensor) -> tuple[Tensor, Aside]:
        """Exp at the origin: features are normal coordinates there."""
        return self._above(sinhc_sqrt(self.dot(features, features)) * features), None

    @widened
    def bring_back(self, x: Tensor, aside: Aside) -> Tensor:
        xs = self.rest(x)
        return asinhc_sqrt(self.dot(xs, xs)) * xs

    def _exp(self, x: Tensor, vs: Tensor, q: Tensor) -> Tensor:
        return self._above(cosh_sqrt(q) * self.rest(x) + sinhc_sqrt(q) * vs)

    def _above(self, xs: Tensor) -> Tensor:
        """(sqrt(1 + |x_s|^2), x_s)."""
        return self.join((1 + self.dot(xs, xs)).sqrt(), xs)

    def _squared_chord(self, x: Tensor, y: Tensor) -> Tensor:
        """<y - x, y - x> as a sum of squares: with d = y_s - x_s and m = (x_s + y_s) / (x_0 + y_0) it is
        |d|^2 - <d,m>^2 = |d - <d,m> m / (1 + sqrt(1 - |m|^2))|^2, where 1 - |m|^2 = (4 + <y-x,y-x>) / (x_0 + y_0)^2."""
        d, s = self.rest(y) - self.rest(x), self.first(x) + self.first(y)
        m = (self.rest(x) + self.rest(y)) / s
        p = self.dot(d, m)
        rough = (self.dot(d, d) - p.square()).clamp_min(0)
        w = d - p / (1 + (4 + rough).sqrt() / s) * m
        return self.dot(w, w)
