"""The unit sphere: features as a direction, their norm kept aside, noise that turns the direction.

With c = |v|^2 - <x,v>^2 the squared length of v's tangent part and p = <x,v>,

    Exp_x(v) = cos(sqrt c) x + sin(sqrt c)/sqrt c (v - p x)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisegan.plugins.geometry.functions import atanc_sqrt, cos_sqrt, sinc_sqrt
from noisegan.plugins.geometry.manifold import Aside
from noisegan.plugins.geometry.precision import widened
from noisegan.plugins.geometry.vector import FEATURE_CORE, VectorManifold, smooth_norm

_ZERO = 1e-6
"""Core of the norm that `project` divides by: only NaN has to be kept out."""


class Sphere(VectorManifold):
    """The unit sphere of dimension dim, points in R^(dim+1)."""

    name = "sphere"
    sizes = "dim: points in R^(dim+1)"
    radius = "pi"
    at_zero = "smooth"
    frame = "singular at -e_1"

    @property
    def num_coordinates(self) -> int:
        return self.dim + 1

    @property
    def num_features(self) -> int:
        return self.dim + 1

    @property
    def num_normals(self) -> int:
        return self.dim + 1

    @widened
    def project(self, u: Tensor) -> Tensor:
        """u / |u|; zero stays zero, with finite gradient."""
        return u * smooth_norm(self.dot(u, u), _ZERO).reciprocal()

    @widened
    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.addcmul(u, self.dot(x, u), x, value=-1)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.drop(self.dot(u, v))

    @widened
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """Exp_x of the tangent part of v; x is taken to be on the sphere (`project` and `carry` see to that)."""
        p = self.dot(x, v)
        c = self.dot(v, v) - p * p
        s = sinc_sqrt(c)
        return torch.addcmul((cos_sqrt(c) - s * p) * x, s, v)

    @widened
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """With t = tan(half the angle), from the chord: (1 + t^2) atan(t)/t times the tangent part of y - x.

        At antipodal points, where any direction is right, it is finite and short.
        """
        chord = y - x
        q = self._squared_tangent(x, y)
        return (1 + q) * atanc_sqrt(q) * (chord - self.dot(x, chord) * x)

    @widened
    def squared_dist(self, x: Tensor, y: Tensor) -> Tensor:
        q = self._squared_tangent(x, y)
        return self.drop(4 * q * atanc_sqrt(q).square())

    def injectivity_radius(self, x: Tensor) -> Tensor:
        return self.constant(math.pi, x)

    def origin(self, like: Tensor) -> Tensor:
        return self.lay(torch.eye(1, self.dim + 1, dtype=like.dtype, device=like.device)[0], like)  # e_1

    @widened
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """The frame carried from e_1 along the shortest geodesic: w - <x,w>/(1 + x_1) (e_1 + x) with w = (0, xi).

        It cannot be continued to -e_1: there is no smooth frame on an even-dimensional sphere.
        """
        first, rest = self.first(x), self.rest(x)
        p = self.dot(rest, xi)
        return self.join(-p, xi - p / self._above(first) * rest)

    @widened
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        first, rest = self.first(x), self.rest(x)
        return self.rest(v) - self.first(v) / self._above(first) * rest

    @widened
    def tangent_noise(self, x: Tensor, e: Tensor) -> Tensor:
        """Normals of the surrounding space, projected: no frame, no singular point."""
        return torch.addcmul(e, self.dot(x, e), x, value=-1)

    @widened
    def carry(self, features: Tensor) -> tuple[Tensor, Aside]:
        """Direction and norm. Of features shorter than 1e-3 the point is inside the sphere: both are smooth at zero."""
        norm = smooth_norm(self.dot(features, features), FEATURE_CORE)
        return features * norm.reciprocal(), norm

    @widened
    def bring_back(self, x: Tensor, aside: Aside) -> Tensor:
        assert isinstance(aside, Tensor)
        return x * aside

    def _squared_tangent(self, x: Tensor, y: Tensor) -> Tensor:
        """tan^2 of half the angle, |x - y|^2 / |x + y|^2; kept from infinity within 1e-6 of the antipode."""
        chord, other = y - x, y + x
        return self.dot(chord, chord) / self.dot(other, other).clamp_min(1e-12)

    def _above(self, first: Tensor) -> Tensor:
        """1 + x_1, kept from zero at the singular point of the frame."""
        return (1 + first).clamp_min(torch.finfo(first.dtype).eps)
