"""Flat space: Exp_x(v) = x + v, where noise on a manifold is plain additive noise."""

from __future__ import annotations

import math

from torch import Tensor

from noisegan.plugins.geometry.manifold import Aside
from noisegan.plugins.geometry.vector import VectorManifold


class Euclidean(VectorManifold):
    """R^dim with its usual metric."""

    name = "euclidean"
    sizes = "dim: points in R^dim"
    radius = "infinite"
    at_zero = "smooth"
    frame = "global"

    def project(self, u: Tensor) -> Tensor:
        return u

    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.drop(self.dot(u, v))

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def injectivity_radius(self, x: Tensor) -> Tensor:
        return self.constant(math.inf, x)

    def origin(self, like: Tensor) -> Tensor:
        return self.lay(like.new_zeros(self.dim), like)

    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        return xi

    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def carry(self, features: Tensor) -> tuple[Tensor, Aside]:
        return features, None

    def bring_back(self, x: Tensor, aside: Aside) -> Tensor:
        return x
