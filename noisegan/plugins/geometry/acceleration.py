"""Accelerations of geodesics under local metrics, and the second-order step they give; no Christoffel symbol is formed.

A geodesic of the metric g(x) on R^C obeys x'' = a(x, x') with a(x, v) = -Gamma(v, v), which is

    a = -g^-1 ( (D_v g) v - grad_x (v^T g(x) v) / 2 )        D_v g: derivative of g along v, in grad_x v is held

so that Exp_x(v) = x + v + a(x, v) / 2 + O(|v|^3). Gamma has C^3 entries per point; for the metrics below a needs only
the derivative D psi of a small function along one vector (`jvp`: v -> D psi v) and its transpose (`vjp`: y ->
D psi^T y). Each function writes its formula down. All are polynomials in v: at v = 0 nothing divides by a length, so
derivatives of every order exist there.

Points and vectors are [N, C, P]: channels along dimension 1, one metric per sample and pixel. k is a rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Linear = Callable[[Tensor], Tensor]

_TINY = 1e-12
"""Added to |v|^2 before |a|^2 is divided by it: zero noise stays zero, and longer steps do not notice."""


def mix(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix [m, C], or [N, m, C], times x [N, C, P] -> [N, m, P] laid out as x: a 1 x 1 convolution.

    (Three times as fast as `matrix @ x`; and what passes over two layouts at a time is several times slower.)
    """
    matrix = matrix.expand(len(x), -1, -1)
    if x.stride(1) == 1:  # channels_last
        return torch.bmm(x.mT, matrix.mT).mT
    return torch.bmm(matrix, x)


def displacement(v: Tensor, a: Tensor, t: Tensor) -> Tensor:
    """t v + t^2 a / 2 with the second term kept shorter than half of the first.

    The expansion is good for small steps. Where |t a| passes |v| it is no better than a straight line (measured), so

        t v + (t^2 a / 2) / sqrt(1 + t^2 |a|^2 / |v|^2)

    which changes the step by O(t^4) only, and is smooth in t, v and a.

    Args:
        v: [N, C, P] velocity.
        a: [N, C, P] acceleration of the geodesic with velocity v; for t v it is t^2 a.
        t: [] how far to go.
    """
    ratio = a.square().sum(1, keepdim=True) / (v.square().sum(1, keepdim=True) + _TINY)  # [N, 1, P]
    return t * v + t.square() / 2 * torch.rsqrt(1 + t.square() * ratio) * a


def conformal(v: Tensor, gradient: Tensor) -> Tensor:
    """g = e^{2 psi} I, psi scalar:  a = |v|^2 grad psi - 2 <grad psi, v> v.

    Args:
        v, gradient: [N, C, P] velocity and grad psi.
    """
    return v.square().sum(1, keepdim=True) * gradient - 2 * (gradient * v).sum(1, keepdim=True) * v


def diagonal(v: Tensor, psi: Tensor, jvp: Linear, vjp: Linear) -> Tensor:
    """g = diag(e^{2 psi_i}):  a = -2 v * (D psi v) + e^{-2 psi} * D psi^T (e^{2 psi} v^2), products elementwise.

    Args:
        v, psi: [N, C, P].
        jvp, vjp: D psi and its transpose at this point, [N, C, P] -> [N, C, P].
    """
    scale = torch.exp(2 * psi)
    return vjp(scale * v.square()) / scale - 2 * v * jvp(v)


@dataclass(frozen=True)
class Factor:
    """S [k, C] of a metric g = I + S^T S, one per sample and pixel, known by what it does.

    down: S v, [N, C, P] -> [N, k, P].
    up: S^T y, [N, k, P] -> [N, C, P].
    gram: S S^T, [N, k, k, P].
    """

    down: Linear
    up: Linear
    gram: Tensor

    def solve(self, y: Tensor) -> Tensor:
        """(I + S S^T)^-1 y, [N, k, P] -> [N, k, P]."""
        eye = torch.eye(self.gram.shape[1], dtype=self.gram.dtype, device=self.gram.device)
        return _eliminate(self.gram + eye[..., None], y)

    def normal(self, e: Tensor, extra: Tensor) -> Tensor:
        """A sample of N(0, g^-1) of standard normals e [N, C, P] and extra [N, k, P], without a square root of g.

        g^-1 (e + S^T extra) has covariance g^-1 (I + S^T S) g^-1 = g^-1; the matrix inversion lemma turns it into
        e + S^T (I + S S^T)^-1 (extra - S e).
        """
        return e + self.up(self.solve(extra - self.down(e)))


def _eliminate(m: Tensor, y: Tensor) -> Tensor:
    """m^-1 y for symmetric m [N, k, k, P] >= I: elimination, the whole feature map at a time; k is small.

    No pivot is searched for: those of a matrix >= I are >= 1.
    """
    pivot, row = m[:, 0, :1], m[:, 0, 1:]  # [N, 1, P], [N, k - 1, P]
    if m.shape[1] == 1:
        return y / pivot
    factor = row / pivot
    rest = _eliminate(m[:, 1:, 1:] - factor[:, :, None] * row[:, None], y[:, 1:] - factor * y[:, :1])
    first = (y[:, :1] - (row * rest).sum(1, keepdim=True)) / pivot
    return torch.cat([first, rest], dim=1)


def low_rank(v: Tensor, S: Factor, jvp: Linear, vjp: Linear) -> Tensor:
    """g = I + S^T S, S = diag(e^{psi_i}) B with B constant [k, C]. With p = S v,

        a = -g^-1 ( 2 S^T ((D psi v) * p) - D psi^T p^2 )

    and g^-1 z = z - S^T (I + S S^T)^-1 S z (Woodbury), which needs one solution of size k.

    Args:
        v: [N, C, P].
        jvp, vjp: D psi at this point, [N, C, P] -> [N, k, P], and its transpose.
    """
    p = S.down(v)  # [N, k, P]
    z = vjp(p.square())  # [N, C, P]
    return z - S.up(S.solve(2 * jvp(v) * p + S.down(z)))


def componentwise(v: Tensor, bend: Tensor) -> Tensor:
    """g = D K D, D = diag(phi_i'(x_i)), K constant: a metric that is constant in the coordinates z_i = phi_i(x_i), so
    that its geodesics are straight there. From z'' = 0, elementwise:  a = -(phi'' / phi') v^2.

    Functions that are linear in pieces, such as a leaky ReLU, have phi'' = 0 wherever it has a value: a vanishes.

    Args:
        v: [N, C, P].
        bend: [N, C, P], phi'' / phi'.
    """
    return -bend * v.square()
