"""Isotropic manifolds in one pass: f to the manifold, Exp, and back again is a f + b e with two numbers per point.

On a sphere and in hyperbolic space no direction is told from another, so what comes back lies in the plane of the
features f and the noise e, and a, b depend on |f|^2, <f, e> and |e|^2 alone. That takes two passes over memory, the
three sums over features and the combination, where going through points and tangent vectors takes about ten; both
sums and combination keep no maps but f and e for the backward pass.

Maps are [N, G, d, H, W]: G points of d features at every pixel. Noise may be one map for all features, [N, G, 1, H, W].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from noisegan.plugins.geometry.functions import asinhc_sqrt, cos_sqrt, cosh_sqrt, sinc_sqrt, sinhc_sqrt, tanhc_sqrt
from noisegan.plugins.geometry.hyperboloid import Hyperboloid
from noisegan.plugins.geometry.poincare_ball import PoincareBall
from noisegan.plugins.geometry.points import Points, move
from noisegan.plugins.geometry.sphere import Sphere
from noisegan.plugins.geometry.vector import FEATURE_CORE, smooth_norm

DIM = 2
"""Where the features of a point lie."""

Coefficients = Callable[[Tensor, Tensor, Tensor, float, float], tuple[Tensor, Tensor]]
"""(|f|^2, <f, e>, |e|^2, rho, far) -> (a, b), all [N, G, 1, H, W]. v is held below rho, features are drawn in to `far`,
as `noisegan.plugins.geometry.points.move` does it."""


def exp_features(points: Points, f: Tensor, e: Tensor, sigma: Tensor, *, unit: float, radius: float) -> Tensor:
    """Exp_x(T_x(sigma e)) of every point, as features, with T_x the manifold's `tangent_noise` or `from_normal`.

    Args:
        points: how channels became points.
        f: features, [N, G, d, H, W].
        e: normals, [N, G, q, H, W], or one map for all, [N, 1, 1, H, W].
        sigma: their strength; broadcasts to [N, G, 1, H, W].
        unit, radius: as in `move`.

    Returns:
        [N, G, d, H, W].
    """
    form = closed_form(points)
    if form is None:
        return move(points, f, sigma * e, unit=unit, radius=radius)
    k = sigma / unit
    ff, fe, ee = moments(f, e)
    a, b = form(ff / unit**2, fe * k / unit, ee * k * k, radius * points.most, points.far)
    return combine(a, f, b * sigma, e)


def closed_form(points: Points) -> Coefficients | None:
    """The closed form of this very class of manifold, if it has one. A sphere's frame has directions of its own."""
    space = points.manifold
    if type(space) is Sphere and not points.framed:
        return sphere
    if type(space) is PoincareBall:
        return partial(hyperbolic, curvature=space.curvature)
    return hyperbolic if type(space) is Hyperboloid else None


def sphere(ff: Tensor, fe: Tensor, ee: Tensor, rho: float, far: float) -> tuple[Tensor, Tensor]:
    """x = f / |f| is the point, |f| is kept aside, v = e - <x, e> x the tangent vector.

    out = |f| (cos|v| x + sin|v|/|v| v). The norm needs no drawing in.
    """
    norm = smooth_norm(ff, FEATURE_CORE)
    along = fe / norm  # <x, e>
    q = ee - along * along  # |v|^2
    k = tanhc_sqrt(q / rho**2)
    q = q * k * k
    s = sinc_sqrt(q) * k
    return cos_sqrt(q) - s * along, s * norm


def hyperbolic(
    ff: Tensor, fe: Tensor, ee: Tensor, rho: float, far: float, *, curvature: float = -1.0
) -> tuple[Tensor, Tensor]:
    """f are normal coordinates at the origin of hyperbolic space, e normal coordinates at the point they make.

    Computed on the hyperboloid, which keeps float32's digits far out where the ball, the same space, has lost them:
    x = (cosh|f|, sinhc|f| f), v = E_x e, y = cosh|v| x + sinhc|v| v, out = asinh|y_s| / |y_s| y_s.
    """
    c = (1 + (ff / far**2) ** 4) ** (-1 / 8)
    k = tanhc_sqrt(ee / rho**2)
    ff, fe, ee = -curvature * c * c * ff, -curvature * c * k * fe, -curvature * k * k * ee
    sh = sinhc_sqrt(ff)
    s = sinhc_sqrt(ee)
    a = cosh_sqrt(ee) * sh + s * sh * sh * fe / (1 + cosh_sqrt(ff))  # y_s = a f + s e
    back = asinhc_sqrt(a * a * ff + 2 * a * s * fe + s * s * ee)
    still = asinhc_sqrt(sh * sh * ff) * sh  # 1 but for rounding: without noise the result is f to the last bit
    return 1 + (back * a - still), back * s * k / c


def moments(f: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """|f|^2, <f, e> and |e|^2, each [N, G, 1, H, W], of f [N, G, d, H, W] and e [N, G, d or 1, H, W]."""
    if _in_pieces(f):
        out: tuple[Tensor, Tensor, Tensor] = _Moments.apply(f, e.expand(f.shape[0], f.shape[1], -1, -1, -1))
        return out
    ee = (e * e).sum(DIM, keepdim=True) * (f.shape[DIM] // e.shape[DIM])
    return _dot(f, f), _dot(f, e), ee


def combine(a: Tensor, f: Tensor, b: Tensor, e: Tensor) -> Tensor:
    """a f + b e, [N, G, d, H, W]; a and b are [N, G, 1, H, W], e [N, G, d or 1, H, W]."""
    if _in_pieces(f):
        whole = (f.shape[0], f.shape[1], -1, -1, -1)
        out: Tensor = _Combine.apply(a, f, b, e.expand(whole))
        return out
    return a * f + b * e


def _in_pieces(f: Tensor) -> bool:
    """A CPU works sample by sample, so that what is computed in between stays in its cache. Compilers and torch.func
    see PyTorch's own operations, which they can transform."""
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return f.device.type == "cpu" and not transformed


def _dot(f: Tensor, e: Tensor) -> Tensor:
    """Sum over features, [N, G, 1, H, W]; one of f, e may be one map for all."""
    if e.shape[DIM] < f.shape[DIM]:
        return f.sum(DIM, keepdim=True) * e
    if torch.is_grad_enabled() or not _in_pieces(f):
        return (f * e).sum(DIM, keepdim=True)
    out = f.new_empty(*f.shape[:DIM], 1, *f.shape[DIM + 1 :])
    product = torch.empty_like(f[0])
    for f_i, e_i, out_i in zip(f, e, out, strict=True):
        torch.mul(f_i, e_i, out=product)
        torch.sum(product, DIM - 1, keepdim=True, out=out_i)
    return out


def _like(gradient: Tensor, e: Tensor) -> Tensor:
    """Summed over features where e is one map for all."""
    return gradient if e.shape[DIM] == gradient.shape[DIM] else gradient.sum(DIM, keepdim=True)


class _Moments(torch.autograd.Function):
    """`moments`; keeps f and e only, and its gradient in f is one combination of the two."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(f, e)
        return _dot(f, f), _dot(f, e), _dot(e, e) * (f.shape[DIM] // e.shape[DIM])

    @staticmethod
    def backward(ctx: Any, g_ff: Tensor, g_fe: Tensor, g_ee: Tensor) -> tuple[Tensor | None, Tensor | None]:
        f, e = ctx.saved_tensors
        need_f, need_e = ctx.needs_input_grad
        repeats = f.shape[DIM] // e.shape[DIM]
        return (
            combine(2 * g_ff, f, g_fe, e) if need_f else None,
            _like(g_fe * f, e) + 2 * repeats * g_ee * e if need_e else None,
        )


class _Combine(torch.autograd.Function):
    """`combine`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, f: Tensor, b: Tensor, e: Tensor) -> Tensor:
        ctx.save_for_backward(a, f, b, e)
        out = torch.empty_like(f)
        for a_i, f_i, b_i, e_i, out_i in zip(a, f, b, e, out, strict=True):
            torch.mul(f_i, a_i, out=out_i)
            out_i.addcmul_(e_i, b_i)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        a, f, b, e = ctx.saved_tensors
        need_a, need_f, need_b, need_e = ctx.needs_input_grad
        return (
            _dot(g, f) if need_a else None,
            a * g if need_f else None,
            _dot(g, e) if need_b else None,
            _like(b * g, e) if need_e else None,
        )
