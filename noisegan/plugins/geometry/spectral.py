"""Functions of symmetric matrices, f(P) = U f(lambda) U^T, differentiable at equal eigenvalues too.

The derivatives of an eigendecomposition are infinite where eigenvalues meet, those of f(P) are not (Daleckii and Krein
1965): in the basis of eigenvectors, with divided differences of f,

    D f(P)[G]_ij      = f[i,j] G_ij
    D^2 f(P)[G, H]_ij = sum_k f[i,k,j] (G_ik H_kj + H_ik G_kj)

and so on. As tr(K D^m f(P)[G_1 .. G_m]) does not depend on the order of K, G_1 .. G_m, the gradient of each derivative
is the next derivative: one autograd function gives all orders. What remains is to compute divided differences without
cancellation: in closed form for roots, by Gauss-Legendre quadrature of an integral for the others.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from noisegan.plugins.geometry.matrices import eye, skew, sym


def log(p: Tensor) -> Tensor:
    """Logarithm of positive definite P [..., n, n]; three derivatives."""
    return _apply(_Log(), p)


def log_derivative(p: Tensor, v: Tensor) -> Tensor:
    """D log(P)[V] for positive definite P and symmetric V, [..., n, n]; two derivatives."""
    return _apply(_Log(), p, v)


def root(p: Tensor) -> Tensor:
    """P^(1/2) of positive definite P [..., n, n]; two derivatives."""
    return _apply(_Root(), p)


def inverse_root(p: Tensor) -> Tensor:
    """P^(-1/2) of positive definite P [..., n, n]; two derivatives."""
    return _apply(_InverseRoot(), p)


def positive_part(s: Tensor) -> Tensor:
    """Eigenvalues l of symmetric S [..., n, n] to (l + sqrt(l^2 + 4 c)) / 2 with c eight times the rounding error of
    one: positive ones of order one stay as they are, others become small and positive; two derivatives."""
    return _apply(_Positive(), s)


def top_projector(s: Tensor, p: int) -> Tensor:
    """The projector on the p largest eigenvalues of S [..., n, n]; two derivatives where the p-th is single."""
    return _apply(_Top(p), s)


def smallest(p: Tensor) -> Tensor:
    """The smallest eigenvalue of symmetric P: [..., n, n] -> [...]; NaN where P is not finite."""
    finite = p.isfinite().all(-1).all(-1)
    values: Tensor = torch.linalg.eigvalsh(torch.where(finite[..., None, None], p, eye(p.shape[-1], p)))
    return torch.where(finite, values[..., 0], math.nan)


def eigh(p: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [..., n] and eigenvectors [..., n, n] of symmetric (Hermitian) P, without history. NaN where P is not
    finite: torch raises there, and a training step could not say which of its losses it was."""
    p = p.detach()
    finite = p.isfinite().all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[..., None, None], p, eye(p.shape[-1], p)))
    return torch.where(finite[..., None], values, math.nan), vectors


def lyapunov(p: Tensor, v: Tensor) -> Tensor:
    """The symmetric X with P X + X P = V, for positive definite P and symmetric V, [..., n, n]; any derivative."""
    p, v = torch.broadcast_tensors(sym(p), sym(v))
    return cast(Tensor, _Lyapunov.apply(p, v, *eigh(p)))


def rotation_root(r: Tensor) -> Tensor:
    """R^(1/2) of orthogonal R [..., n, n] without the eigenvalue -1: (I + R) (2I + R + R^T)^(-1/2)."""
    one = eye(r.shape[-1], r)
    return (one + r) @ inverse_root(2 * one + r + r.mT)


def rotation_log(r: Tensor) -> Tensor:
    """The skew-symmetric logarithm of orthogonal R [..., n, n] without the eigenvalue -1.

    R has a symmetric part C with eigenvalues cos t and a skew-symmetric part K, and they commute: log R = K g(C) with
    g(cos t) = t / sin t. Taken of the square root of R, whose angles are far from the pole of g at pi.
    """
    half = rotation_root(r)
    return 2 * skew(half) @ _apply(_Angle(), half)


_DIGITS = 64
"""Eigenvalues that are divided by have some digits left: this many rounding errors of the largest, or more."""


@functools.cache
def compilable() -> None:
    """Make each function one node of a compiled graph: the compiler cannot look into an autograd function that is given
    a function. Called where a manifold is made and not on import, as it loads the compiler, for seconds."""
    for function in (
        log,
        log_derivative,
        root,
        inverse_root,
        positive_part,
        top_projector,
        lyapunov,
        rotation_root,
        rotation_log,
    ):
        torch.compiler.allow_in_graph(function)


def _gauss_legendre(count: int, length: float) -> list[tuple[float, float]]:
    """Nodes in (0, length) and their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return list(zip((length * (nodes + 1) / 2).tolist(), (length * weights / 2).tolist(), strict=True))


# Made once: the compiler does not look into numpy.
_UNIT = _gauss_legendre(10, 1.0)
_QUARTER = _gauss_legendre(16, math.pi / 2)


class _Function(ABC):
    """f by its divided differences: of eigenvalues x [..., n] in ascending order, f[x_i, .., x_k] for every choice of
    m + 1 of them, [..., n, .., n]."""

    @abstractmethod
    def differences(self, x: Tensor, m: int) -> Tensor: ...


class _Root(_Function):
    def differences(self, x: Tensor, m: int) -> Tensor:
        a = _axes(_positive(x).sqrt(), m)
        if m == 0:
            return a[0]
        if m == 1:
            return 1 / (a[0] + a[1])
        return -1 / ((a[0] + a[1]) * (a[1] + a[2]) * (a[0] + a[2]))


class _InverseRoot(_Function):
    def differences(self, x: Tensor, m: int) -> Tensor:
        a = _axes(_positive(x, _DIGITS).sqrt(), m)
        if m == 0:
            return 1 / a[0]
        if m == 1:
            return -1 / (a[0] * a[1] * (a[0] + a[1]))
        return sum(a) / (math.prod(a) * (a[0] + a[1]) * (a[1] + a[2]) * (a[0] + a[2]))


class _Positive(_Function):
    """f = (x + w) / 2 with w = sqrt(x^2 + 4 c)."""

    def differences(self, x: Tensor, m: int) -> Tensor:
        w = (x.square() + 32 * torch.finfo(x.dtype).eps).sqrt()
        a, b = _axes(x, m), _axes(w, m)
        if m == 0:
            return (a[0] + b[0]) / 2
        if m == 1:
            return (1 + (a[0] + a[1]) / (b[0] + b[1])) / 2
        ends, outer = a[0] + a[2], b[0] + b[2]
        rest = b[1] - a[1] * ends / outer + (outer - ends) * (outer + ends) / (2 * outer)
        return rest / ((b[0] + b[1]) * (b[1] + b[2])) / 2


class _Top(_Function):
    """f = 1 on the p largest eigenvalues, 0 on the others: differences within a group vanish."""

    def __init__(self, p: int) -> None:
        self.p = p

    def differences(self, x: Tensor, m: int) -> Tensor:
        top = torch.arange(x.shape[-1], device=x.device) >= x.shape[-1] - self.p
        if m == 0:
            return top.to(x.dtype).expand_as(x)
        across = top[:, None] != top[None, :]
        gap = x[..., :, None] - x[..., None, :]
        inverse = across / gap.where(across, gap.new_ones(()))  # 1 / (x_i - x_j) across groups, [..., n, n]
        sign = 2 * top.to(x.dtype) - 1  # [n]
        if m == 1:
            return inverse * sign[:, None]
        ij, jk, ik = inverse[..., :, :, None], inverse[..., None, :, :], inverse[..., :, None, :]
        return ij * ik * sign[:, None, None] - ij * jk * sign[:, None] + ik * jk * sign


class _Log(_Function):
    """f[a_0 .. a_m] = (-1)^(m-1) integral over t > 0 of dt / prod (a_i + t)."""

    def differences(self, x: Tensor, m: int) -> Tensor:
        x = _positive(x)
        if m == 0:
            return x.log()
        return self._sorted(torch.stack(torch.broadcast_tensors(*_axes(x, m))).sort(0).values)

    def _sorted(self, a: Tensor) -> Tensor:
        """Of points a [m + 1, ...] in ascending order."""
        low, high, m = a[0], a[-1], len(a) - 1
        if m == 1:
            t = (high - low) / low
            apart = t > 0
            return torch.where(apart, torch.log1p(t) / t.where(apart, t.new_ones(())), 1) / low
        near = high < 4 * low
        far = (self._sorted(a[1:]) - self._sorted(a[:-1])) / (high - low).where(~near, low.new_ones(()))
        return torch.where(near, self._integral(a), far)

    def _integral(self, a: Tensor) -> Tensor:
        """With t = g s / (1 - s) and g the geometric mean of the extremes: to rounding while they differ by less than
        a factor of 4."""
        m, g = len(a) - 1, (a[0] * a[-1]).sqrt()
        total = torch.zeros_like(g)
        for s, weight in _UNIT:
            total = total + weight * (1 - s) ** (m - 1) / (a / g * (1 - s) + s).prod(0)
        return total / g**m if m % 2 else -total / g**m


class _Angle(_Function):
    """f(cos t) = t / sin t = integral over 0 < u < pi/2 of du / (1 + cos t sin u), for cos t > 0."""

    def differences(self, x: Tensor, m: int) -> Tensor:
        a = _axes(x, m)
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for u, weight in _QUARTER:
            total = total + weight * (-math.sin(u)) ** m / math.prod(1 + c * math.sin(u) for c in a)
        return total


def _apply(f: _Function, p: Tensor, *g: Tensor) -> Tensor:
    """D^m f(P)[G_1 .. G_m] of the symmetric parts of P and G_i, [..., n, n]."""
    eigenvalues, u = eigh(sym(p))
    p, eigenvalues, u, *g = torch.broadcast_tensors(sym(p), eigenvalues.unsqueeze(-2), u, *map(sym, g))
    return cast(Tensor, _Spectral.apply(f, p, eigenvalues[..., 0, :], u, *g))


class _Spectral(torch.autograd.Function):
    """D^m f(P)[G_1 .. G_m]; P is given with its eigenvalues and eigenvectors, which have no gradient of their own."""

    @staticmethod
    def forward(ctx: Any, f: _Function, p: Tensor, eigenvalues: Tensor, u: Tensor, *g: Tensor) -> Tensor:
        ctx.f = f
        ctx.save_for_backward(p, eigenvalues, u, *g)
        differences = f.differences(eigenvalues, len(g))
        if not g:
            return (u * differences.unsqueeze(-2)) @ u.mT
        return u @ _contract(differences, [u.mT @ each @ u for each in g]) @ u.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        p, eigenvalues, u, *g = ctx.saved_tensors
        k = sym(grads[0])
        _, needs_p, _, _, *needs_g = ctx.needs_input_grad

        def next_of(*directions: Tensor) -> Tensor:
            return cast(Tensor, _Spectral.apply(ctx.f, p, eigenvalues, u, *directions))

        grad_p = next_of(*g, k) if needs_p else None
        grad_g = [next_of(*g[:i], k, *g[i + 1 :]) if need else None for i, need in enumerate(needs_g)]
        return None, grad_p, None, None, *grad_g


def _contract(differences: Tensor, g: Sequence[Tensor]) -> Tensor:
    """sum over inner indices and orders of f[i, k.., j] G_ik .. G_lj, [..., n, n]."""
    if len(g) == 1:
        return differences * g[0]
    if len(g) == 2:
        rule = "...ikj,...ik,...kj->...ij"
    elif len(g) == 3:
        rule = "...iklj,...ik,...kl,...lj->...ij"
    else:
        raise NotImplementedError("functions of symmetric matrices have three derivatives here")
    return cast(Tensor, sum(torch.einsum(rule, differences, *order) for order in itertools.permutations(g)))


class _Lyapunov(torch.autograd.Function):
    """X with P X + X P = V; its gradients are solutions of the same equation."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, v: Tensor, eigenvalues: Tensor, u: Tensor) -> Tensor:
        x = u @ (u.mT @ v @ u / (eigenvalues.unsqueeze(-1) + eigenvalues.unsqueeze(-2))) @ u.mT
        ctx.save_for_backward(p, x, eigenvalues, u)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        p, x, eigenvalues, u = ctx.saved_tensors
        z = cast(Tensor, _Lyapunov.apply(p, sym(grads[0]), eigenvalues, u))
        return -(x @ z + z @ x), z, None, None


def _positive(x: Tensor, errors: float = 1) -> Tensor:
    """Eigenvalues of positive matrices [..., n]: what is below so many rounding errors of the largest is rounding, of
    either sign."""
    return x.maximum(errors * torch.finfo(x.dtype).eps * x[..., -1:])


def _axes(x: Tensor, m: int) -> list[Tensor]:
    """x [..., n] along each of m + 1 last axes, to broadcast to [..., n, .., n]."""
    return [x[(..., *(slice(None) if j == i else None for j in range(m + 1)))] for i in range(m + 1)]
