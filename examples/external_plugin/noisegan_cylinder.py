"""`cylinder`: a manifold of one's own, a circle times a line or more lines, for every strategy that takes a manifold.

noisegan check 'geodesic(manifold=cylinder, group=3)' --plugin examples/external_plugin/noisegan_cylinder.py

Points are (x_0, x_1, h) in R^(dim+1): a direction (x_0, x_1) of unit length and a height h in R^(dim-1). It is flat, so
geodesics are helices in closed form, smooth everywhere, and it closes up after a turn of 2 pi. Every map below needs
only Python's operators and a few functions of torch, acts on any leading dimensions, and keeps the dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from noisegan.api import hookimpl
from noisegan.plugins.geometry import Manifold

CORE = 1e-6
"""Added to the squared length of a direction that is divided by its length: a pair of features may be zero."""


class Cylinder(Manifold):
    """Circle x R^(dim-1), points [dim+1]."""

    name = "cylinder"
    tier = "plugin"
    sizes = "dim: points in R^(dim+1), an angle and dim - 1 heights"
    radius = "pi"
    at_zero = "smooth"
    frame = "global"

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.point_shape = (dim + 1,)

    @property
    def num_features(self) -> int:
        return self.dim + 1  # a pair for the direction, whose length is kept aside, and the heights

    def project(self, u: Tensor) -> Tensor:
        direction, height = u[..., :2], u[..., 2:]
        return torch.cat((direction / direction.norm(dim=-1, keepdim=True), height), dim=-1)

    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return self.from_normal(x, self.to_normal(x, u))

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """Turn by the angle that v has along the circle, rise by the rest of it."""
        step = self.to_normal(x, v)  # [..., dim]
        cosine, sine = step[..., :1].cos(), step[..., :1].sin()
        return torch.cat((cosine * x[..., :2] + sine * _turned(x), x[..., 2:] + step[..., 1:]), dim=-1)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        across = (_turned(x) * y[..., :2]).sum(-1, keepdim=True)
        along = (x[..., :2] * y[..., :2]).sum(-1, keepdim=True)
        return self.from_normal(x, torch.cat((torch.atan2(across, along), y[..., 2:] - x[..., 2:]), dim=-1))

    def injectivity_radius(self, x: Tensor) -> Tensor:
        return torch.full_like(x[..., 0], math.pi)

    def origin(self, like: Tensor) -> Tensor:
        return torch.eye(1, self.dim + 1, dtype=like.dtype, device=like.device)[0]

    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """The first coordinate goes round anticlockwise, the others up. No singular point."""
        return torch.cat((xi[..., :1] * _turned(x), xi[..., 1:]), dim=-1)

    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.cat(((_turned(x) * v[..., :2]).sum(-1, keepdim=True), v[..., 2:]), dim=-1)

    def carry(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """A pair of features to its direction, its length aside; the other features are heights."""
        pair = features[..., :2]
        length = (pair.square().sum(-1, keepdim=True) + CORE).sqrt()  # [..., 1]
        return torch.cat((pair / length, features[..., 2:]), dim=-1), length

    def bring_back(self, x: Tensor, aside: Any) -> Tensor:
        return torch.cat((aside * x[..., :2], x[..., 2:]), dim=-1)


def _turned(x: Tensor) -> Tensor:
    """The direction of x a quarter turn further, [..., 2]."""
    return torch.stack((-x[..., 1], x[..., 0]), dim=-1)


@hookimpl
def register_manifolds(register: Callable[[str, Any], None]) -> None:
    register("cylinder", Cylinder)
