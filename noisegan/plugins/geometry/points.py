"""How the channels of a site become points of a manifold, are moved there by noise, and become channels again.

The C channels of a pixel are cut into groups of d, one point each; channels that are left over belong to no point.
Features f of a point are carried over in units of u, so that features of unit variance lie at a distance of about one
from the origin, where curvature shows and float32 has its digits:

    x = carry(c f / u),   out = bring_back(Exp_x(v)) u / c,   c = (1 + |f / u|^8 / far^8)^(-1/8)

c is 1 but for features that would lie beyond `far`: those are drawn in, and the factor is kept aside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from noisegan.errors import NoiseganError
from noisegan.plugins.geometry import manifold
from noisegan.plugins.geometry.functions import tanhc_sqrt
from noisegan.plugins.geometry.manifold import Manifold
from noisegan.plugins.geometry.product import Product

REACH = {"poincare_ball": 12.0, "hyperboloid": 12.0}
"""How far from the origin float32 keeps points and their way back; features take half of it, noise the other half."""
OTHER_REACH = 8.0
"""The same for other spaces: eigenvalues of a symmetric positive definite matrix lie within exp(8) of one."""
_ANY_SITE = 64
"""Channels that parameters are tried with before any site is known."""
_LEAST_RADIUS = 1e-6
"""Keeps the radius from zero at points where geodesics end at once, such as singular matrices."""


@dataclass(frozen=True)
class Points:
    """What becomes of the channels of a site: `groups` points of a manifold, then `rest` channels without a point.

    Without a manifold, where a site has fewer channels than a point needs, all are left over. `framed`: noise is given
    by its coordinates in the frame of `from_normal`; else by normals for `tangent_noise`.
    """

    manifold: Manifold | None
    groups: int
    rest: int
    framed: bool
    injectivity_radius: float = math.inf
    """At the manifold's origin."""
    feature_radius: float = math.inf
    """See `Manifold.feature_radius`."""

    @property
    def flat(self) -> bool:
        """Noise is plain additive noise."""
        return self.manifold is None or is_flat(self.manifold)

    @property
    def normals(self) -> int:
        """Normals of one point."""
        if self.manifold is None:
            return 0
        return self.manifold.dim if self.framed else self.manifold.num_normals

    @property
    def num_normals(self) -> int:
        """Normals of all points and of the channels left over."""
        return self.groups * self.normals + self.rest

    @property
    def reach(self) -> float:
        """See `REACH`; in units of the radius of curvature where that can be chosen."""
        name = self.manifold.name if self.manifold else ""
        return REACH.get(name, OTHER_REACH) / math.sqrt(-getattr(self.manifold, "curvature", -1.0))

    @property
    def most(self) -> float:
        """Noise goes no further: the injectivity radius at the origin, or half the reach where that is less."""
        return min(self.injectivity_radius, self.reach / 2)

    @property
    def far(self) -> float:
        """Features are carried no further from the origin: half the way that they come back from, or half the reach."""
        return min(self.feature_radius, self.reach) / 2

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, C, H, W] to those of points [N, G, d, H, W] and those left over [N, rest, H, W]."""
        assert self.manifold is not None
        count = self.groups * self.manifold.num_features
        return x[:, :count].unflatten(1, (self.groups, -1)), x[:, count:]

    def split_noise(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Noise [N, num_normals, H, W] to that of points [N, G, q, H, W] and the other, [N, rest, H, W]; one map for
        all, [N, 1, H, W], to [N, 1, 1, H, W] and itself."""
        if e.shape[1] != self.num_normals:
            return e.unsqueeze(1), e
        count = self.groups * self.normals
        return e[:, :count].unflatten(1, (self.groups, -1)), e[:, count:]

    def join(self, f: Tensor, rest: Tensor) -> Tensor:
        """The inverse of `split`."""
        f = f.flatten(1, 2)
        return torch.cat((f, rest), dim=1) if self.rest else f


def points_of(expression: str, group: int | None, channels: int, *, framed: bool = False) -> Points:
    """Cut the channels of a site into points.

    Args:
        expression: a manifold, with its size or without: `sphere(dim=7)`, `sphere`.
        group: channels per point; None: what the given size needs, else all channels where the dimension is free, and
            the smallest matrices of three features or more where it is not.
        channels: of the site.
        framed: see `Points`.

    Raises:
        NoiseganError: for an unknown manifold, a bad size, an axis, or a group that does not make a point of it.
    """
    sized = any(mark in expression for mark in ("(", "^", "?"))
    space = _fixed(expression, group) if sized else _sized(expression, group, channels)
    if getattr(space, "axis", -1) != -1:
        raise NoiseganError(f"manifold={expression!r}: channels are laid along an axis already; leave axis out")
    if space is None or space.num_features > channels:
        return Points(None, 0, channels, framed)
    origin = space.origin(torch.zeros(space.num_features, dtype=torch.float64))
    groups, rest = divmod(channels, space.num_features)
    return Points(space, groups, rest, framed, float(space.injectivity_radius(origin)), space.feature_radius())


def is_flat(space: Manifold) -> bool:
    """Whether it is Euclidean space, or a product of such spaces."""
    return all(map(is_flat, space.factors)) if isinstance(space, Product) else space.name == "euclidean"


def check_points(expression: str, group: int | None) -> None:
    """Is this a manifold, and does the group make points of it? For validators of parameters.

    A space of geomstats may be one that nothing can be trained on, as its logarithm is not differentiable, say. It is
    tried with one point.

    Raises:
        ValueError: as `points_of` raises NoiseganError, or where a trial fails.
    """
    try:
        points = points_of(expression, group, _ANY_SITE)
        if points.manifold is not None and points.manifold.tier == "geomstats":
            _try_noise(expression, group)
    except NoiseganError as error:
        raise ValueError(str(error)) from None


@cache
def _try_noise(expression: str, group: int | None) -> None:
    """Noise on one point, differentiated twice.

    Raises:
        NoiseganError: when that fails.
    """
    points = points_of(expression, group, _ANY_SITE)
    assert points.manifold is not None
    f = torch.linspace(0.1, 0.4, points.manifold.num_features, dtype=torch.float64).view(1, 1, -1, 1, 1)
    e = torch.full_like(f[:, :, :1], 0.1).expand(1, 1, points.normals, 1, 1)
    try:
        out = move(replace(points, groups=1, rest=0), f.requires_grad_(), e, unit=1.0, radius=0.99)
        (first,) = torch.autograd.grad(out.sum(), f, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), f) if first.requires_grad else (first,)
    except (RuntimeError, NoiseganError) as error:
        why = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise NoiseganError(f"nothing can be trained on it: {why}; take another manifold") from None
    if not all(bool(t.isfinite().all()) for t in (out, first, second)):
        raise NoiseganError("nothing can be trained on it: its derivatives are not finite; take another manifold")


def _fixed(expression: str, group: int | None) -> Manifold:
    space = manifold(expression)
    if group not in (None, space.num_features):
        raise NoiseganError(
            f"manifold={expression!r} makes a point of {space.num_features} channels, not of group={group}; "
            "leave group out, or leave the size out and give group"
        )
    return space


def _sized(name: str, group: int | None, channels: int) -> Manifold | None:
    """The manifold of that name whose points have `group` features; None where so few make none."""
    one, two = _try(name, "dim", 1), _try(name, "dim", 2)
    if one is not None and two is not None:
        each = two.num_features - one.num_features
        dim, over = divmod((group or channels) - one.num_features + each, each)
        if group is not None and (dim < 1 or over):
            raise NoiseganError(
                f"group={group} channels make no point of {name!r}, which takes {one.num_features}, "
                f"{two.num_features}, {two.num_features + each}, ... channels"
            )
        return manifold(name, dim=dim) if dim >= 1 else None
    if _try(name, "n", 2) is None:
        return _fixed(name, group)
    for n in range(1, 65):
        space = _try(name, "n", n)
        if space is not None and (space.num_features == group or (group is None and space.num_features >= 3)):
            return space
    allowed = ", ".join(str(manifold(name, n=n).num_features) for n in (2, 3, 4))
    raise NoiseganError(f"group={group} channels make no point of {name!r}, which takes {allowed}, ... channels")


def _try(name: str, size: str, value: int) -> Manifold | None:
    try:
        return manifold(name, **{size: value})
    except NoiseganError:
        return None


def move(points: Points, f: Tensor, e: Tensor, *, unit: float, radius: float) -> Tensor:
    """Exp_x(v) of every point, as features.

    Args:
        points: how channels became points.
        f: features, [N, G, d, H, W].
        e: what v is made of, with its strength: [N, G, q, H, W], or one map for all, [N, 1, 1, H, W].
        unit: u, in which both are measured.
        radius: |v| is held below this share of the smooth radius, or of half the reach where that is less, by
            v <- v tanh(|v| / rho) rho / |v|.

    Returns:
        [N, G, d, H, W].
    """
    space = points.manifold
    assert space is not None
    f = f.movedim(2, -1) / unit  # [N, G, H, W, d]
    distance = f.square().sum(-1, keepdim=True) / points.far**2
    c = (1 + distance**4) ** (-1 / 8)  # [N, G, H, W, 1]
    x, aside = space.carry(c * f)  # [N, G, H, W, *point_shape]
    rho = (radius * space.smooth_radius(x).clamp_max(points.reach / 2)).clamp_min(_LEAST_RADIUS)
    e = (e / unit).expand(f.shape[0], points.groups, -1, -1, -1).movedim(2, -1)  # [N, G, H, W, q or 1]
    e = e.expand(*e.shape[:-1], points.normals)
    if points.framed or type(space).tangent_noise is Manifold.tangent_noise:  # an isometry: |v| = |e|
        y = space.exp_normal(x, e * tanhc_sqrt(e.square().sum(-1) / rho.square()).unsqueeze(-1))
    else:
        v = space.tangent_noise(x, e)
        y = space.exp(x, space.times(tanhc_sqrt(space.inner(x, v, v) / rho.square()), v))
    return (space.bring_back(y, aside) * (unit / c)).movedim(-1, 2)
