"""What manifolds have in common whose points are vectors: where their coordinates lie, and products along that axis."""

from __future__ import annotations

import torch
from torch import Tensor

from noisegan.errors import NoiseganError
from noisegan.plugins.geometry.manifold import Manifold

FEATURE_CORE = 1e-3
"""Features have a variance near one; those of a norm below this lose their direction smoothly, as there is no smooth
direction of the zero vector."""


class VectorManifold(Manifold):
    """A manifold whose points are vectors along one axis of a tensor.

    Args:
        dim: intrinsic dimension, 1 or more.
        axis: where the coordinates of points, tangent vectors, features and normal coordinates lie. With axis=1 a
            feature map [N, C, H, W] is taken as it is. A positive axis wants tensors that all have as many dimensions
            as the first; functions with one value per point leave the axis out.

    Raises:
        NoiseganError: for a dimension that is not a positive whole number.
    """

    tier = "native"

    def __init__(self, dim: int, *, axis: int = -1) -> None:
        self.dim = positive(self.name, "dim", dim)
        self.axis = axis
        self.point_shape = (self.num_coordinates,)

    @property
    def num_coordinates(self) -> int:
        """Length of a point as a vector."""
        return self.dim

    def times(self, s: Tensor, v: Tensor) -> Tensor:
        return self.widen(s, v) * v

    def dot(self, u: Tensor, v: Tensor) -> Tensor:
        """Sum of u v over the axis, which stays with length 1."""
        return (u * v).sum(self.axis, keepdim=True)

    def drop(self, t: Tensor) -> Tensor:
        """The axis, of length 1, left out."""
        return t.squeeze(self.axis)

    def widen(self, s: Tensor, like: Tensor) -> Tensor:
        """One value per point, with the axis put back as it lies in `like`."""
        return s.unsqueeze(self.axis if self.axis < 0 else self.axis - like.dim())

    def lay(self, values: Tensor, like: Tensor) -> Tensor:
        """A vector [k] laid along the axis, to broadcast with `like`."""
        if self.axis < 0:
            return values.reshape(-1, *(1,) * (-1 - self.axis))
        return values.reshape(*(1,) * self.axis, -1, *(1,) * (like.dim() - self.axis - 1))

    def constant(self, value: float, like: Tensor) -> Tensor:
        """One value for every point: [...]."""
        return like.select(self.axis, 0).new_full((), value).expand(like.select(self.axis, 0).shape)

    def first(self, x: Tensor) -> Tensor:
        """The first coordinate, the axis kept."""
        return x.narrow(self.axis, 0, 1)

    def rest(self, x: Tensor) -> Tensor:
        """All coordinates but the first."""
        return x.narrow(self.axis, 1, x.shape[self.axis] - 1)

    def join(self, first: Tensor, rest: Tensor) -> Tensor:
        """The inverse of `first` and `rest`."""
        return torch.cat((first, rest), self.axis)


def smooth_norm(square: Tensor, core: float) -> Tensor:
    """(|u|^4 + core^4)^(1/4) of |u|^2: |u| to core^4 / (4 |u|^3), and smooth at zero."""
    return (square.square() + core**4).sqrt().sqrt()


def positive(manifold: str, size: str, value: object) -> int:
    """`value` if it is a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise NoiseganError(f"manifold {manifold!r}: {size}={value!r} is not allowed; give a whole number from 1")
    return value
