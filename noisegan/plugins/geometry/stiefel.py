"""Orthonormal p-frames in R^n, matrices X [n, p] with X^T X = I, under the canonical metric.

A tangent vector is V = X A + X' B, with skew-symmetric A and X' an orthonormal basis of what is orthogonal to X;
<V, V> = tr(V^T (I - X X^T / 2) V) = |A|^2 / 2 + |B|^2 (Edelman, Arias, Smith 1998). As the quotient SO(n) / SO(n - p)
has it, geodesics are orbits of rotations, for any n and p and without a QR decomposition (which is not smooth at 0):

    Exp_X(V) = exp(W) X,   W = V X^T - X V^T - X (X^T V) X^T
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisegan.errors import NoiseganError
from noisegan.plugins.geometry import spectral
from noisegan.plugins.geometry.compact import Compact
from noisegan.plugins.geometry.matrices import coordinates_of_skew, expm, eye, frobenius, skew, skew_of, sym
from noisegan.plugins.geometry.precision import widened
from noisegan.plugins.geometry.vector import positive

_NEWTON_STEPS = 14
_LONGEST_STEP = 0.5
"""With these two, 9,000 of 9,000 random geodesics of up to 0.88 pi were found again, in six St(n, p) up to St(8, 3)."""
_LAST_STEPS = 2


class Stiefel(Compact):
    """St(n, p), points [n, p]. Its injectivity radius is not known; 0.89 pi is a lower bound (Rentmeesters 2013).

    `log` has no closed form: Newton's method, see there.

    Args:
        n: dimension of the space.
        p: number of vectors in a frame, less than n (for p = n take `so`).
    """

    name = "stiefel"
    sizes = "n, p < n: orthonormal columns, n x p"
    radius = "at least 0.89 pi"
    at_zero = "smooth"
    frame = "singular where the first p rows have the eigenvalue -1; isotropic noise needs no frame"
    bound = 0.89 * math.pi

    def __init__(self, n: int, p: int) -> None:
        spectral.compilable()
        self.n, self.p = positive(self.name, "n", n), positive(self.name, "p", p)
        if p >= n:
            raise NoiseganError(f"manifold 'stiefel': p={p} is not allowed; give less than n={n}")
        self.dim = n * p - p * (p + 1) // 2
        self.point_shape = (n, p)

    @property
    def num_normals(self) -> int:
        return self.n * self.p

    @widened
    def project(self, u: Tensor) -> Tensor:
        """U (U^T U)^(-1/2), smooth where U has full rank."""
        return u @ spectral.inverse_root(u.mT @ u)

    @widened
    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u - x @ sym(x.mT @ u)

    @widened
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return frobenius(u, v) - frobenius(x.mT @ u, x.mT @ v) / 2

    @widened
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return expm(_generator(x, v)) @ x

    @widened
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The v with Exp_x(v) = y by Newton's method, to rounding within the injectivity radius; beyond, any answer.

        The search itself has no derivative. Two more steps with its last Jacobian held fixed have one: each makes one
        more derivative of v in x and y exact, so first and second derivatives are right, and third ones are not.
        """
        x, y = torch.broadcast_tensors(x, y)
        with torch.no_grad():
            axes = torch.cat((x, torch.linalg.qr(x, mode="complete")[0][..., :, self.p :]), -1)  # x first, [..., n, n]
            xi, turn, jacobian = self._search(axes.mT @ y)
        v = axes @ self._block(xi)[..., : self.p]
        for _ in range(_LAST_STEPS):
            missing = self._coordinates(turn.mT @ axes.mT @ (y - self.exp(x, v)))
            step = _shortened(_solve(jacobian, missing))
            v = v + axes @ self._block(step)[..., : self.p]
        return self.to_tangent(x, v)

    def _search(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the origin to y [..., n, p]: normal coordinates, the rotation that takes the origin there, and the
        Jacobian of y's coordinates, as seen from the end, in normal coordinates, [..., dim, dim].

        D exp(W)[U] = exp(W) T with T = F (G * (F^H U F)) F^H, W = F diag(i t) F^H and G_jk = (1 - e^-id) / (i d) where
        d = t_j - t_k: no two eigenvalues need differ.
        """
        steps = self._block(eye(self.dim, y))  # [dim, n, n]
        xi = y.new_zeros(*y.shape[:-2], self.dim)
        for count in range(_NEWTON_STEPS + 1):
            angles, f = spectral.eigh(-1j * self._block(xi))
            turn = ((f * torch.exp(1j * angles).unsqueeze(-2)) @ f.mH).real
            apart = angles.unsqueeze(-1) - angles.unsqueeze(-2)
            weight = torch.exp(-0.5j * apart) * torch.sinc(apart / (2 * math.pi))
            f, weight = f.unsqueeze(-3), weight.unsqueeze(-3)
            moved = (f @ (weight * (f.mH @ steps.to(f.dtype) @ f)) @ f.mH).real  # [..., dim, n, n]
            jacobian = self._coordinates(moved[..., : self.p]).mT
            if count < _NEWTON_STEPS:
                xi = xi + _shortened(_solve(jacobian, self._coordinates(turn.mT @ y)))
        return xi, turn, jacobian

    def _block(self, xi: Tensor) -> Tensor:
        """Normal coordinates to (A -B^T; B 0), [..., n, n]."""
        turn, rest = xi.split((self.p * (self.p - 1) // 2, self.p * (self.n - self.p)), -1)
        b = rest.unflatten(-1, (self.n - self.p, self.p))
        lower = torch.cat((b, b.new_zeros(*b.shape[:-1], self.n - self.p)), -1)
        return torch.cat((torch.cat((skew_of(turn, self.p), -b.mT), -1), lower), -2)

    def _coordinates(self, columns: Tensor) -> Tensor:
        """The tangent part, at the origin, of [..., n, p] in normal coordinates, [..., dim]."""
        return torch.cat((coordinates_of_skew(columns[..., : self.p, :]), columns[..., self.p :, :].flatten(-2)), -1)

    def origin(self, like: Tensor) -> Tensor:
        """The first p axes."""
        return eye(self.n, like)[:, : self.p]

    @widened
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """X A + X' B, the entries of A first and then those of B row by row.

        X' is what the reflection I - (O + X) (I + X_1^T)^(-1) (O + X)^T makes of the last n - p axes, where O is the
        origin and X_1 the first p rows of X; it takes O to -X. Singular where X_1 has the eigenvalue -1: vectors are
        not finite there.
        """
        block = self._block(xi)[..., : self.p]
        return x @ block[..., : self.p, :] + self._others(x) @ block[..., self.p :, :]

    @widened
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.cat((coordinates_of_skew(x.mT @ v), (self._others(x).mT @ v).flatten(-2)), -1)

    @widened
    def tangent_noise(self, x: Tensor, e: Tensor) -> Tensor:
        """E - X X^T E + X sqrt 2 skew(X^T E), e [..., n p] being E row by row: no frame, no singular point."""
        e = e.reshape(*e.shape[:-1], self.n, self.p)
        along = x.mT @ e
        return e + x @ (math.sqrt(2) * skew(along) - along)

    def _others(self, x: Tensor) -> Tensor:
        """X', [..., n, n - p]."""
        one = eye(self.n, x)
        both = one[:, : self.p] + x  # O + X
        lower = x[..., self.p :, :]
        correction = torch.linalg.solve_ex(both[..., : self.p, :].mT, lower.mT)[0]  # (I + X_1^T)^-1 X_2^T
        others: Tensor = one[:, self.p :] - both @ correction
        return others


def _generator(x: Tensor, v: Tensor) -> Tensor:
    """The skew-symmetric W with W X = V and nothing beside, [..., n, n]; of the tangent part of V."""
    v = v - x @ sym(x.mT @ v)
    return 2 * skew(v @ x.mT) - x @ skew(x.mT @ v) @ x.mT


def _shortened(step: Tensor) -> Tensor:
    """A step [..., d] of Newton's method, `_LONGEST_STEP` long at most."""
    length: Tensor = torch.linalg.vector_norm(step.detach(), dim=-1, keepdim=True)
    return step * (_LONGEST_STEP / length.clamp_min(_LONGEST_STEP))


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """matrix^-1 right, [..., d]; whatever comes of a singular matrix, without waiting for the device to say so."""
    solution: Tensor = torch.linalg.solve_ex(matrix, right.unsqueeze(-1))[0].squeeze(-1)
    return solution
