"""Products and powers: a point is one point of each factor, flattened and laid end to end.

Geodesics go in all factors at once, squared distances add up, and noise is independent in each. A power, such as 16
three-spheres in 64 channels, is one call of its factor, not 16.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from noisegan.errors import NoiseganError
from noisegan.plugins.geometry.manifold import Aside, Manifold
from noisegan.plugins.geometry.vector import VectorManifold

Kind = Literal["points", "features", "normals", "noise"]


class Product(VectorManifold):
    """The product of manifolds, points [sum of their flattened sizes].

    A product of one lets a manifold of matrices lie along an axis.

    Args:
        factors: manifolds with their coordinates last (axis=-1). The same object several times in a row is a power.
        axis: where the coordinates of the product lie.

    Raises:
        NoiseganError: for no factors, or a factor that is no manifold or has an axis of its own.
    """

    name = "product"
    sizes = "factors: points of all, flattened end to end"
    radius = "the least of its factors'"
    at_zero = "as its factors"
    frame = "as its factors'"

    def __init__(self, factors: Sequence[Manifold], *, axis: int = -1) -> None:
        for factor in factors:
            if not isinstance(factor, Manifold):
                raise NoiseganError(f"manifold 'product': a factor is {factor!r}; give manifolds")
            own = getattr(factor, "axis", -1)
            if own != -1:
                raise NoiseganError(
                    f"manifold 'product': its factor {factor.name!r} has axis={own}; "
                    "leave the factors' axis out and give it to the product"
                )
        if not factors:
            raise NoiseganError("manifold 'product': there are no factors; give one or more manifolds")
        self.factors = tuple(factors)
        runs = [list(run) for _, run in itertools.groupby(factors, key=id)]
        self._runs = [(run[0], len(run)) for run in runs]
        super().__init__(sum(M.dim for M in factors), axis=axis)

    @property
    def num_coordinates(self) -> int:
        return sum(math.prod(M.point_shape) for M in self.factors)

    @property
    def num_features(self) -> int:
        return sum(M.num_features for M in self.factors)

    @property
    def num_normals(self) -> int:
        return sum(M.num_normals for M in self.factors)

    def project(self, u: Tensor) -> Tensor:
        return self._each(lambda M, u: M.project(u), u)

    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each(lambda M, x, u: M.to_tangent(x, u), x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._total([M.inner(*parts) for M, *parts in self._parts(x, u, v)])

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self._each(lambda M, x, v: M.exp(x, v), x, v)

    def exp_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        return self._each(lambda M, x, xi: M.exp_normal(x, xi), x, xi, kinds=("points", "normals"))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self._each(lambda M, x, y: M.log(x, y), x, y)

    def squared_dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self._total([M.squared_dist(*parts) for M, *parts in self._parts(x, y)])

    def injectivity_radius(self, x: Tensor) -> Tensor:
        least: list[Tensor] = [M.injectivity_radius(part).amin(-1) for M, part in self._parts(x)]
        return functools.reduce(torch.minimum, least)

    def smooth_radius(self, x: Tensor) -> Tensor:
        """The least of those factors' whose radius is smooth as it is, and of (sum r^-4)^(-1/4) over the others, which
        is smooth where two are equal."""
        found = [(M, M.smooth_radius(part)) for M, part in self._parts(x)]
        plain = [r.amin(-1) for M, r in found if type(M).smooth_radius is Manifold.smooth_radius]
        varying = [r.pow(-4).sum(-1) for M, r in found if type(M).smooth_radius is not Manifold.smooth_radius]
        together = [functools.reduce(torch.add, varying).pow(-0.25)] if varying else []
        least: Tensor = functools.reduce(torch.minimum, plain + together)
        return least

    def feature_radius(self) -> float:
        return min(M.feature_radius() for M, _ in self._runs)

    def origin(self, like: Tensor) -> Tensor:
        one = like.new_empty(0)
        return self.lay(
            torch.cat([M.origin(one).reshape(-1).repeat(count) for M, count in self._runs]),
            like,
        )

    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        return self._each(lambda M, x, xi: M.from_normal(x, xi), x, xi, kinds=("points", "normals"))

    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        return self._each(lambda M, x, v: M.to_normal(x, v), x, v, out="normals")

    def tangent_noise(self, x: Tensor, e: Tensor) -> Tensor:
        return self._each(lambda M, x, e: M.tangent_noise(x, e), x, e, kinds=("points", "noise"))

    def carry(self, features: Tensor) -> tuple[Tensor, Aside]:
        carried = [M.carry(part) for M, part in self._parts(features, kinds=("features",))]
        return self._join([x for x, _ in carried], "points"), tuple(aside for _, aside in carried)

    def bring_back(self, x: Tensor, aside: Aside) -> Tensor:
        assert isinstance(aside, tuple)
        parts = self._parts(x)
        return self._join([M.bring_back(part, kept) for (M, part), kept in zip(parts, aside, strict=True)], "features")

    def _each(
        self,
        call: Callable[..., Tensor],
        *inputs: Tensor,
        kinds: Sequence[Kind] = ("points", "points"),
        out: Kind = "points",
    ) -> Tensor:
        """`call(factor, *parts of the inputs)` of every run of factors, joined."""
        return self._join([call(M, *parts) for M, *parts in self._parts(*inputs, kinds=kinds)], out)

    def _total(self, values: Sequence[Tensor]) -> Tensor:
        """Sum over all factors of values [..., count]."""
        return functools.reduce(torch.add, [value.sum(-1) for value in values])

    def _parts(self, *inputs: Tensor, kinds: Sequence[Kind] = ("points", "points", "points")) -> list[Any]:
        """For each run of factors: the factor and its parts [..., count, *shape] of the inputs."""
        cut = [self._cut(t, kind) for t, kind in zip(inputs, kinds, strict=False)]
        return [[M, *parts] for (M, _), *parts in zip(self._runs, *cut, strict=True)]

    def _cut(self, t: Tensor, kind: Kind) -> list[Tensor]:
        shapes = [_shape(M, kind) for M, _ in self._runs]
        sizes = [count * math.prod(shape) for (_, count), shape in zip(self._runs, shapes, strict=True)]
        pieces = t.movedim(self.axis, -1).split(sizes, -1)
        return [
            piece.unflatten(-1, (count, *shape))
            for piece, (_, count), shape in zip(pieces, self._runs, shapes, strict=True)
        ]

    def _join(self, parts: Sequence[Tensor], kind: Kind) -> Tensor:
        flat = [
            part.flatten(part.dim() - 1 - len(_shape(M, kind))) for part, (M, _) in zip(parts, self._runs, strict=True)
        ]
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in flat))
        joined = torch.cat([part.expand(*batch, -1) for part in flat], -1) if len(flat) > 1 else flat[0]
        return joined.movedim(-1, self.axis)


def product(factors: Sequence[Manifold], *, axis: int = -1) -> Product:
    """The product of `factors`; `product([M] * 16)` is a power. See `Product`."""
    return Product(factors, axis=axis)


def _shape(M: Manifold, kind: Kind) -> tuple[int, ...]:
    """Trailing shape of what the manifold takes or gives."""
    if kind == "points":
        return M.point_shape
    return ({"features": M.num_features, "normals": M.dim, "noise": M.num_normals}[kind],)
