"""The flat torus: features in pairs, each pair an angle and a norm, noise that turns the angles.

It is the only curved-looking manifold here that is flat, and has a smooth global frame: with J the quarter turn,

    Exp_x(v) = cos(t) x + sin(t) J x,    t = <J x, v>,    on each circle
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisegan.plugins.geometry.manifold import Aside, Manifold
from noisegan.plugins.geometry.precision import widened
from noisegan.plugins.geometry.vector import FEATURE_CORE, positive, smooth_norm


class Torus(Manifold):
    """A product of dim unit circles, points [dim, 2].

    Args:
        dim: number of circles, 1 or more.
        axis: where features (2 dim of them) and normal coordinates lie; in points this axis has become two, circles and
            then pairs.

    Raises:
        NoiseganError: for a dimension that is not a positive whole number.
    """

    name = "torus"
    tier = "native"
    sizes = "dim: points [dim, 2], dim unit circles"
    radius = "pi"
    at_zero = "smooth"
    frame = "global"

    def __init__(self, dim: int, *, axis: int = -1) -> None:
        self.dim = positive(self.name, "dim", dim)
        self.axis = axis
        self.point_shape = (dim, 2)
        self._circle, self._pair = (axis - 1, axis) if axis < 0 else (axis, axis + 1)

    @property
    def num_features(self) -> int:
        return 2 * self.dim

    @widened
    def project(self, u: Tensor) -> Tensor:
        return u * self._norm(u, 1e-6).reciprocal()

    @widened
    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return self._along(x, self._cross(x, u))

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((self._circle, self._pair))

    @widened
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self._turned(x, self._cross(x, v))

    @widened
    def exp_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        return self._turned(x, xi)

    @widened
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self._along(x, self._angle(x, y))

    @widened
    def squared_dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self._angle(x, y).square().sum(self.axis)

    def times(self, s: Tensor, v: Tensor) -> Tensor:
        at = self._pair if self.axis < 0 else self._pair - v.dim()
        return s.unsqueeze(at).unsqueeze(at - 1) * v

    def injectivity_radius(self, x: Tensor) -> Tensor:
        one = x.select(self._pair, 0).select(self.axis, 0)
        return one.new_full((), math.pi).expand(one.shape)

    def origin(self, like: Tensor) -> Tensor:
        """Angle zero on every circle. `like` holds points or features."""
        one = torch.eye(1, 2, dtype=like.dtype, device=like.device).expand(self.dim, 2)
        if self.axis < 0:
            return one.reshape(self.dim, 2, *(1,) * (-1 - self.axis))
        rank = like.dim() + (like.shape[self.axis] == self.num_features)
        return one.reshape(*(1,) * self.axis, self.dim, 2, *(1,) * (rank - self.axis - 2))

    @widened
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """xi J x: anticlockwise on every circle."""
        return self._along(x, xi)

    @widened
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        return self._cross(x, v)

    @widened
    def carry(self, features: Tensor) -> tuple[Tensor, Aside]:
        """Directions of the pairs, and their norms; pairs shorter than 1e-3 lie inside the circle, smooth at zero."""
        pairs = features.unflatten(self.axis, (self.dim, 2))
        norm = self._norm(pairs, FEATURE_CORE)
        return pairs * norm.reciprocal(), norm

    @widened
    def bring_back(self, x: Tensor, aside: Aside) -> Tensor:
        assert isinstance(aside, Tensor)
        pairs = x * aside
        return pairs.flatten(pairs.dim() + self._circle if self.axis < 0 else self._circle, self._pair)

    def _norm(self, u: Tensor, core: float) -> Tensor:
        return smooth_norm((u * u).sum(self._pair, keepdim=True), core)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.select(self._pair, 0), x.select(self._pair, 1)

    def _cross(self, x: Tensor, u: Tensor) -> Tensor:
        """<J x, u> on each circle."""
        (x0, x1), (u0, u1) = self._split(x), self._split(u)
        return x0 * u1 - x1 * u0

    def _angle(self, x: Tensor, y: Tensor) -> Tensor:
        """From x to y, in (-pi, pi]."""
        (x0, x1), (y0, y1) = self._split(x), self._split(y)
        return torch.atan2(x0 * y1 - x1 * y0, x0 * y0 + x1 * y1)

    def _along(self, x: Tensor, t: Tensor) -> Tensor:
        """t J x."""
        x0, x1 = self._split(x)
        return torch.stack((-t * x1, t * x0), self._pair)

    def _turned(self, x: Tensor, t: Tensor) -> Tensor:
        """x turned by t."""
        x0, x1 = self._split(x)
        c, s = t.cos(), t.sin()
        return torch.stack((c * x0 - s * x1, s * x0 + c * x1), self._pair)
