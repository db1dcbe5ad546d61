"""The checks of a manifold. Each is a function that raises `Broken` when a promise is not kept; its docstring is the
promise.

Functions of points are differentiated in u, at x = project(x_0 + u). Beside generic points there is the origin, where
an SPD matrix is the identity, and y = x.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

from noisegan.plugins.geometry.check_tools import Subject, check, differentiate, require, require_close


@check
def describes_itself(s: Subject) -> None:
    """It says its name, dimension, sizes, radius, smoothness at zero strength, and where its frame is singular."""
    for attribute in ("name", "sizes", "radius", "at_zero", "frame"):
        value = getattr(s.M, attribute, None)
        require(isinstance(value, str) and bool(value), f"{attribute} is {value!r}; expected a phrase")
        require(attribute == "name" or value != "not said", f"{attribute} is not said; set it on the class")
    require(
        s.M.tier in ("native", "geomstats", "plugin"), f"tier is {s.M.tier!r}; expected native, geomstats or plugin"
    )
    for attribute in ("dim", "num_features", "num_normals"):
        require(getattr(s.M, attribute) >= 1, f"{attribute} is {getattr(s.M, attribute)!r}; expected 1 or more")
    require_close(s.origin(), s.M.project(s.origin()), "the origin, projected")
    require(tuple(s.origin().shape) == tuple(s.M.point_shape), "the origin has not the shape of a point")


@check
def exp_of_zero_is_the_point(s: Subject) -> None:
    """Exp_x(0) = x."""
    x = s.points(4)
    require_close(s.M.exp(x, torch.zeros_like(x)), x, "exp(x, 0) is not x")


@check
def exp_starts_along_its_velocity(s: Subject) -> None:
    """d/ds Exp_x(s v) = v at s = 0, so that a strength of zero can be trained away from."""
    x = s.points(4)
    v = s.vectors(x)
    step = 1e-4
    slope = (s.M.exp(x, step * v) - s.M.exp(x, -step * v)) / (2 * step)
    require_close(slope, v, "the derivative of exp(x, s v) in s at s = 0 is not v", 1e-6)


@check
def points_stay_on_the_manifold(s: Subject) -> None:
    """Exp gives points, which `project` leaves where they are."""
    x = s.points(4)
    y = s.M.exp(x, s.vectors(x))
    require_close(s.M.project(y), y, "exp(x, v) is moved by project")


@check
def to_tangent_projects(s: Subject) -> None:
    """`to_tangent` gives vectors that touch the manifold, and leaves tangent vectors alone."""
    x = s.points(4)
    t = s.M.to_tangent(x, s.normal(*x.shape, call=3))
    require_close(s.M.to_tangent(x, t), t, "to_tangent moves what it has made")
    v = s.vectors(x)
    require_close(s.M.to_tangent(x, v), v, "to_tangent moves from_normal(x, xi)")
    step = 1e-5 / (1 + float(t.abs().max()))
    left = (s.M.project(x + step * t) - x - step * t).abs().max() / step
    require(
        float(left) < 1e-3, f"to_tangent is not tangent: a step along it leaves the manifold at a rate of {left:.1e}"
    )


@check
def the_frame_is_orthonormal(s: Subject) -> None:
    """`from_normal` is linear and keeps lengths and angles, and `to_normal` undoes it."""
    x = s.points(4)
    a, b = s.normal(4, s.M.dim, call=3), s.normal(4, s.M.dim, call=4)
    u, v = s.M.from_normal(x, a), s.M.from_normal(x, b)
    require_close(s.M.from_normal(x, a - 2 * b), u - 2 * v, "from_normal is not linear")
    require_close(s.M.inner(x, u, v), (a * b).sum(-1), "from_normal does not keep inner products")
    require_close(s.M.to_normal(x, u), a, "to_normal does not undo from_normal")


@check
def geodesics_have_the_length_of_their_velocity(s: Subject) -> None:
    """dist(x, Exp_x(v)) = |v| within the injectivity radius (Gauss lemma), at constant speed."""
    x = s.points(4)
    v = s.vectors(x)
    length = s.M.inner(x, v, v).sqrt()
    require_close(s.M.dist(x, s.M.exp(x, v)), length, "dist(x, exp(x, v)) is not |v|", 1e-7)
    middle = s.M.dist(s.M.exp(x, 0.25 * v), s.M.exp(x, 0.75 * v))
    require_close(middle, length / 2, "exp(x, t v) does not keep its speed: from t = 1/4 to 3/4 it is not |v|/2", 1e-7)


@check
def geodesics_are_shortest_up_to_the_radius(s: Subject) -> None:
    """The same, and log inverts exp, at nine tenths of the injectivity radius (or at a length of five where it is
    infinite): a radius that promises too much is found out."""
    x = s.points(4)
    radius = s.M.injectivity_radius(x)
    length = torch.where(radius.isfinite(), 0.9 * radius, 5.0)
    xi = s.normal(4, s.M.dim, call=3)
    v = s.M.from_normal(x, length.unsqueeze(-1) * xi / xi.norm(dim=-1, keepdim=True))
    y = s.M.exp(x, v)
    far = f"|v| = {float(length.max()):.2f}, within the injectivity radius of {float(radius.min()):.2f}"
    require_close(s.M.dist(x, y), length, f"dist(x, exp(x, v)) is not |v| at {far}", 1e-6)
    require_close(s.M.log(x, y), v, f"log(x, exp(x, v)) is not v at {far}", 1e-5)


@check
def log_inverts_exp(s: Subject) -> None:
    """Log_x(Exp_x(v)) = v within the injectivity radius, and Exp_x(Log_x(y)) = y."""
    x = s.points(4)
    v = s.vectors(x)
    y = s.M.exp(x, v)
    require_close(s.M.log(x, y), v, "log(x, exp(x, v)) is not v", 1e-7)
    require_close(s.M.exp(x, s.M.log(x, y)), y, "exp(x, log(x, y)) is not y", 1e-7)


@check
def distances_are_distances(s: Subject) -> None:
    """dist is symmetric and zero at y = x, where its gradient is finite and the gradient of its square is zero."""
    x = s.points(4)
    y = s.M.exp(x, s.vectors(x))
    require_close(s.M.dist(x, y), s.M.dist(y, x), "dist(x, y) is not dist(y, x)", 1e-7)
    for distance in (s.M.dist, s.M.squared_dist):
        u = torch.zeros_like(x, requires_grad=True)
        p = s.M.project(x + u)
        value = distance(p.detach(), p)
        name = distance.__name__
        require_close(value.detach(), torch.zeros_like(value), f"{name}(x, x) is not zero", 1e-7)
        (gradient,) = torch.autograd.grad(value.sum(), u)
        require(bool(gradient.isfinite().all()), f"the gradient of {name} at y = x is not finite")
    require_close(gradient, torch.zeros_like(x), "the gradient of squared_dist at y = x is not zero", 1e-7)


@check
def gradients_of_exp_are_right(s: Subject) -> None:
    """First derivatives of exp in x and v, at generic and zero v, at generic points and at the origin."""
    for where, function, inputs in _exp_cases(s):
        differentiate(gradcheck, function, inputs, f"the gradient of exp at {where}")


@check
def second_gradients_of_exp_are_right(s: Subject) -> None:
    """Second derivatives of the same: path-length regularisation needs them."""
    for where, function, inputs in _exp_cases(s):
        differentiate(gradgradcheck, function, inputs, f"the second gradient of exp at {where}")


@check
def curvature_is_there_at_zero(s: Subject) -> None:
    """d^2/ds^2 Exp_x(s v) at s = 0, as gradients give it, is that of the values: a map that is x + v for short vectors
    has lost it, and agrees with itself wherever `gradgradcheck` looks, which steps by 1e-6."""
    x = s.points(4)
    v, w = s.vectors(x), s.normal(*x.shape, call=3)

    def along(t: Tensor) -> Tensor:
        return (w * s.M.exp(x, t * v)).sum()

    zero = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
    (first,) = torch.autograd.grad(along(zero), zero, create_graph=True)
    second = torch.autograd.grad(first, zero)[0] if first.requires_grad else torch.zeros_like(zero)
    step = torch.full_like(zero, 1e-3)
    found = ((along(step) - 2 * along(zero) + along(-step)) / step**2).detach()
    require_close(second, found, "the second derivative of exp(x, s v) in s at s = 0 is not that of its values", 1e-4)


@check
def limited_vectors_are_smooth(s: Subject) -> None:
    """`limit` has right derivatives to second order, at generic points, at the origin and at v = 0: noise passes
    through it."""
    origin = s.origin().unsqueeze(0)
    for where, x in (("a generic point", s.points(2)), ("the origin", origin)):
        for what, v in (("", s.vectors(x)), (", v = 0", torch.zeros_like(x))):

            def limit(u: Tensor, w: Tensor, x: Tensor = x) -> Tensor:
                p = s.M.project(x + u)
                return s.M.limit(p, s.M.to_tangent(p, w))

            inputs = (torch.zeros_like(x), v)
            differentiate(gradcheck, limit, inputs, f"the gradient of limit at {where}{what}")
            differentiate(gradgradcheck, limit, inputs, f"the second gradient of limit at {where}{what}")


@check
def gradients_of_log_are_right(s: Subject) -> None:
    """First derivatives of log and squared_dist in x and y, at generic points, at the origin, and at y = x."""
    for where, function, inputs in _log_cases(s):
        differentiate(gradcheck, function, inputs, f"the gradient of log or squared_dist at {where}")


@check
def second_gradients_of_log_are_right(s: Subject) -> None:
    """Second derivatives of the same."""
    for where, function, inputs in _log_cases(s):
        differentiate(gradgradcheck, function, inputs, f"the second gradient of log or squared_dist at {where}")


@check
def features_come_back(s: Subject) -> None:
    """bring_back(carry(f)) = f, as values and to second order; finite to second order at f = 0."""
    there_and_back: Callable[[Tensor], Tensor] = lambda f: s.M.bring_back(*s.M.carry(f))  # noqa: E731
    f = 0.5 * s.normal(3, s.M.num_features, call=3)
    require_close(there_and_back(f), f, "bring_back(carry(f)) is not f")
    differentiate(gradcheck, there_and_back, (f,), "the gradient of bring_back(carry(f))")
    differentiate(gradgradcheck, there_and_back, (f,), "the second gradient of bring_back(carry(f))")
    zero = torch.zeros_like(f)
    require_close(there_and_back(zero), zero, "bring_back(carry(0)) is not 0")
    x, _ = s.M.carry(f)
    require(x.shape[1:] == s.M.point_shape, f"carry gives points of shape {list(x.shape[1:])}")
    e = s.normal(3, s.M.num_normals, call=4)

    def noisy(f: Tensor) -> Tensor:
        x, aside = s.M.carry(f)
        return (s.M.bring_back(s.M.exp(x, s.M.limit(x, 0.1 * s.M.tangent_noise(x, e))), aside) ** 2).sum()

    zero.requires_grad_()
    (first,) = torch.autograd.grad(noisy(zero), zero, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), zero) if first.requires_grad else (zero,)
    require(bool(first.isfinite().all()), "the gradient through carry, exp and bring_back at f = 0 is not finite")
    require(
        bool(second.isfinite().all()), "the second gradient through carry, exp and bring_back at f = 0 is not finite"
    )


@check
def noise_is_isotropic(s: Subject) -> None:
    """`tangent_noise` is linear in e with A A^T = I in an orthonormal frame: <u, noise> ~ N(0, |u|^2)."""
    x = s.points(3)
    k = s.M.num_normals
    each = torch.eye(k, dtype=x.dtype, device=x.device)  # [k, k]
    rows = s.M.to_normal(x.unsqueeze(1), s.M.tangent_noise(x.unsqueeze(1), each.expand(3, k, k)))  # [3, k, dim]
    covariance = rows.mT @ rows
    identity = torch.eye(s.M.dim, dtype=x.dtype, device=x.device).expand_as(covariance)
    require_close(covariance, identity, "the covariance of tangent_noise in an orthonormal frame is not I")
    e = s.normal(3, k, call=3)
    mixed = (e.unsqueeze(1) @ rows).squeeze(1)
    require_close(s.M.to_normal(x, s.M.tangent_noise(x, e)), mixed, "tangent_noise is not linear in e")


@check
def fused_maps_agree(s: Subject) -> None:
    """exp_normal is exp of from_normal; squared_dist is |log|^2; `limit` keeps v below the injectivity radius."""
    x = s.points(4)
    xi = s.coordinates(x, 0.8, call=3)
    v = s.M.from_normal(x, xi)
    y = s.M.exp(x, v)
    require_close(s.M.exp_normal(x, xi), y, "exp_normal(x, xi) is not exp(x, from_normal(x, xi))")
    w = s.M.log(x, y)
    require_close(s.M.squared_dist(x, y), s.M.inner(x, w, w), "squared_dist(x, y) is not |log(x, y)|^2", 1e-7)
    radius = s.M.injectivity_radius(x)
    short = s.M.limit(x, 100 * v)
    require(
        bool((s.M.inner(x, short, short).sqrt() <= radius).all()), "limit(x, v) is longer than the injectivity radius"
    )


@check
def batches_of_any_shape(s: Subject) -> None:
    """Leading dimensions [], [3] and [2, 3, 4] all work, and each point is on its own."""
    x = s.points(2, 3, 4)
    v = s.vectors(x)
    flat = x.reshape(24, *s.M.point_shape), v.reshape(24, *s.M.point_shape)
    whole = _all_maps(s, *flat)
    for batch in ((), (3,), (2, 3, 4)):
        count = math.prod(batch)
        given = (t[:count].reshape((*batch, *s.M.point_shape)) for t in flat)
        for name, found in _all_maps(s, *given).items():
            expected = whole[name][:count].reshape((*batch, *whole[name].shape[1:]))
            require_close(found, expected, f"{name} in a batch of shape {list(batch)}")


@check
def float32_is_accurate(s: Subject) -> None:
    """In float32 all maps are near what float64 makes of the same inputs, and in float32."""
    x = s.points(16).float()
    v = s.vectors(x.double()).float()
    wide = _all_maps(s, x.double(), v.double())
    for name, found in _all_maps(s, x, v).items():
        require(found.dtype == torch.float32, f"{name} of float32 is {found.dtype}")
        require_close(found.double(), wide[name], f"{name} in float32", s.float32_error)


@check
def low_precision_goes_through(s: Subject) -> None:
    """bfloat16 and float16 in and out, computed in float32: as good as the rounding of the result."""
    f = 0.5 * s.normal(16, s.M.num_features, call=3)
    x = s.points(16)
    v = s.vectors(x)
    for dtype in (torch.bfloat16, torch.float16):
        allowed = 4 * torch.finfo(dtype).eps
        y = s.M.exp(x.to(dtype), v.to(dtype))
        require(y.dtype == dtype, f"exp of {dtype} is {y.dtype}")
        expected = s.M.exp(x.to(dtype).float(), v.to(dtype).float())
        require_close(y.float(), expected, f"exp in {dtype}", allowed)
        carried, _ = s.M.carry(f.to(dtype))
        require(carried.dtype == dtype, f"carry of {dtype} is {carried.dtype}")
        require_close(carried.float(), s.M.carry(f.to(dtype).float())[0], f"carry in {dtype}", allowed)


@check
def leaves_the_process_alone(s: Subject) -> None:
    """The default dtype, the random state, the root logger and the inputs stay as they are, and dtypes do not follow
    the default."""
    x = s.points(3)
    v = s.vectors(x)
    kept = x.clone(), v.clone()
    before = torch.get_default_dtype(), torch.get_rng_state(), logging.getLogger().level
    try:
        for default in (torch.float32, torch.float64):
            torch.set_default_dtype(default)
            for dtype in (torch.float32, torch.float64):
                for name, found in _all_maps(s, x.to(dtype), v.to(dtype)).items():
                    require(found.dtype == dtype, f"{name} of {dtype} is {found.dtype} when the default is {default}")
            require(torch.get_default_dtype() == default, "it changes torch's default dtype")
    finally:
        torch.set_default_dtype(before[0])
    require(torch.equal(torch.get_rng_state(), before[1]), "it uses torch's global random state")
    require(logging.getLogger().level == before[2], "it changes the level of the root logger")
    require(torch.equal(x, kept[0]) and torch.equal(v, kept[1]), "it changes its inputs in place")


def _all_maps(s: Subject, x: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Every map of a manifold at points x and tangent vectors v."""
    M = s.M
    y = M.exp(x, v)
    xi = M.to_normal(x, v)
    features = x.new_ones(*x.shape[: x.dim() - len(M.point_shape)], M.num_features) * 0.3
    carried, aside = M.carry(features)
    return {
        "exp": y,
        "to_normal": xi,
        "from_normal": M.from_normal(x, xi),
        "exp_normal": M.exp_normal(x, xi),
        "log": M.log(x, y),
        "inner": M.inner(x, v, v),
        "squared_dist": M.squared_dist(x, y),
        "dist": M.dist(x, y),
        "project": M.project(x),
        "to_tangent": M.to_tangent(x, x),
        "injectivity_radius": M.injectivity_radius(x).clamp(max=100),
        "carry": carried,
        "bring_back": M.bring_back(carried, aside),
        "limit": M.limit(x, v),
    }


_Case = tuple[str, Callable[..., Any], tuple[Tensor, ...]]


def _exp_cases(s: Subject) -> list[_Case]:
    generic, origin = s.points(2), s.origin().unsqueeze(0)
    vector = s.vectors(generic)
    at_origin = s.vectors(origin)

    def function(x: Tensor) -> Callable[..., Tensor]:
        def exp(u: Tensor, w: Tensor) -> Tensor:
            p = s.M.project(x + u)
            return s.M.exp(p, s.M.to_tangent(p, w))

        return exp

    return [
        ("a generic point", function(generic), (torch.zeros_like(generic), vector)),
        ("a generic point, v = 0", function(generic), (torch.zeros_like(generic), torch.zeros_like(generic))),
        ("the origin", function(origin), (torch.zeros_like(origin), at_origin)),
        ("the origin, v = 0", function(origin), (torch.zeros_like(origin), torch.zeros_like(origin))),
    ]


def _log_cases(s: Subject) -> list[_Case]:
    generic, origin = s.points(2), s.origin().unsqueeze(0)
    other = s.M.exp(generic, s.vectors(generic))

    def function(x: Tensor, y: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
        def log(u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
            p, q = s.M.project(x + u), s.M.project(y + w)
            return s.M.log(p, q), s.M.squared_dist(p, q)

        return log

    pairs = {"two generic points": (generic, other), "y = x": (generic, generic), "y = x = origin": (origin, origin)}
    return [(where, function(x, y), (torch.zeros_like(x), torch.zeros_like(y))) for where, (x, y) in pairs.items()]
