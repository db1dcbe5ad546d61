"""What a manifold is here: points, tangent vectors, geodesics, and how a group of features is carried to it and back.

Every operation is a pure function of tensors, broadcasts over leading dimensions, keeps dtype and device, and is
differentiable twice everywhere it says, zero tangent vectors and coincident points included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, TypeAlias, Union

import torch
from torch import Tensor

from noisegan.plugins.geometry.functions import tanhc_sqrt

Aside: TypeAlias = Union[Tensor, tuple["Aside", ...], None]  # noqa: UP007
"""What `carry` keeps aside for `bring_back`: nobody else looks into it."""


class Manifold(ABC):
    """A Riemannian manifold of dimension `dim` whose points are tensors [..., *point_shape].

    A plugin's manifold subclasses this. `exp`, `log`, `inner`, `project`, `to_tangent`, `injectivity_radius`, `origin`
    and `from_normal` are what it has to write; the rest follows from them, or is overridden where a better formula is
    known.

    Attributes:
        name: what it is registered as.
        dim: intrinsic dimension, as geomstats counts it.
        point_shape: trailing shape of one point and of one tangent vector.
        num_features: how many features make one point, see `carry`.
        num_normals: how many standard normals make one tangent vector, see `tangent_noise`.

    What a class says about itself, one phrase each, for `noisegan manifolds` and for errors:
        tier: `native`, `geomstats` or `plugin`.
        sizes: its size arguments and what its points are, such as `dim: points in R^(dim+1)`.
        radius: its injectivity radius.
        at_zero: how smooth exp is in sigma at Exp_x(sigma v), sigma = 0.
        frame: where the frame of `from_normal` is singular.
    """

    name: str
    dim: int
    point_shape: tuple[int, ...]

    tier: ClassVar[Literal["native", "geomstats", "plugin"]] = "plugin"
    sizes: ClassVar[str] = "not said"
    radius: ClassVar[str] = "not said"
    at_zero: ClassVar[str] = "not said"
    frame: ClassVar[str] = "not said"

    @property
    def num_features(self) -> int:
        return self.dim

    @property
    def num_normals(self) -> int:
        return self.dim

    @abstractmethod
    def project(self, u: Tensor) -> Tensor:
        """A point near u [..., *point_shape], smooth wherever `project` is one-valued."""

    @abstractmethod
    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The tangent vector at x nearest to u, both [..., *point_shape]; a projection."""

    @abstractmethod
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """<u, v> of tangent vectors at x: [..., *point_shape] -> [...]."""

    @abstractmethod
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """Exp_x(v): where the geodesic from x with velocity v is at time one."""

    @abstractmethod
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Log_x(y): the shortest tangent vector at x with Exp_x(v) = y, within the injectivity radius."""

    @abstractmethod
    def injectivity_radius(self, x: Tensor) -> Tensor:
        """How far from x geodesics stay shortest and unique: [...], infinite where they always do."""

    def smooth_radius(self, x: Tensor) -> Tensor:
        """What noise at x is held below: [...], at most the injectivity radius, and smooth in x to second order.

        By default the injectivity radius itself; overridden where that has corners.
        """
        return self.injectivity_radius(x)

    def feature_radius(self) -> float:
        """Features shorter than this come back from `carry`: by default the injectivity radius at the origin."""
        origin = self.origin(torch.zeros((), dtype=torch.float64))
        return float(self.injectivity_radius(origin))

    @abstractmethod
    def origin(self, like: Tensor) -> Tensor:
        """The base point that features are counted from, [*point_shape], in the dtype and on the device of `like`."""

    @abstractmethod
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """Geodesic normal coordinates to tangent vectors: xi [..., dim] -> [..., *point_shape].

        Linear in xi and an isometry, |v|_x = |xi|: an orthonormal frame at x. Its docstring names the points where the
        frame is singular, if there are any.
        """

    @abstractmethod
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        """The inverse of `from_normal`: [..., *point_shape] -> [..., dim]."""

    def squared_dist(self, x: Tensor, y: Tensor) -> Tensor:
        """dist(x, y)^2, [...]; differentiable at x = y."""
        v = self.log(x, y)
        return self.inner(x, v, v)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Geodesic distance, [...]; its gradient at x = y is zero or, where rounding leaves a distance, finite."""
        q = self.squared_dist(x, y)
        apart = q > 0
        return apart * q.where(apart, q.new_ones(())).sqrt()

    def exp_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """Exp_x of normal coordinates xi [..., dim]; overridden where the two together cost less than one by one."""
        return self.exp(x, self.from_normal(x, xi))

    def times(self, s: Tensor, v: Tensor) -> Tensor:
        """s v, one factor s [...] per point for tangent vectors v [..., *point_shape]."""
        return s[(..., *(None,) * len(self.point_shape))] * v

    def limit(self, x: Tensor, v: Tensor, share: float = 0.99) -> Tensor:
        """v shortened to less than `share` of the smooth radius: v tanh(t) / t with t = |v| / (share radius). Even in v
        and the identity to second order, so it leaves both derivatives at v = 0 alone."""
        rho = share * self.smooth_radius(x)
        return self.times(tanhc_sqrt(self.inner(x, v, v) / rho.square()), v)

    def tangent_noise(self, x: Tensor, e: Tensor) -> Tensor:
        """Isotropic normal tangent vectors at x of standard normals e [..., num_normals] -> [..., *point_shape].

        <u, tangent_noise(e)> ~ N(0, |u|^2). Overridden where that needs no frame: on a sphere, e is a normal vector of
        the surrounding space and is projected.
        """
        return self.from_normal(x, e)

    def carry(self, features: Tensor) -> tuple[Tensor, Aside]:
        """Features [..., num_features] to (points [..., *point_shape], what is kept aside).

        `bring_back(*carry(f))` is f. By default features are normal coordinates at the origin: Exp_o(E f).
        """
        o = self.origin(features)
        return self.exp(o, self.from_normal(o, features)), None

    def bring_back(self, x: Tensor, aside: Aside) -> Tensor:
        """The inverse of `carry`: points and what was kept aside to features [..., num_features]."""
        o = self.origin(x)
        return self.to_normal(o, self.log(o, x))
