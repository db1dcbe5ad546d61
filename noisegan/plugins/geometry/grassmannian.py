"""The p-dimensional subspaces of R^n, each as the orthogonal projector P on it.

A tangent vector V is symmetric with P V + V P = V; the metric is <U, V> = tr(U V), and with the skew-symmetric
W = V P - P V (Bendokat, Zimmermann, Absil, A Grassmann manifold handbook, 2024)

    Exp_P(V) = exp(W) P exp(-W)

In this metric, geomstats', principal angles t_i give the distance sqrt(2 sum t_i^2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisegan.errors import NoiseganError
from noisegan.plugins.geometry import spectral
from noisegan.plugins.geometry.compact import Compact
from noisegan.plugins.geometry.matrices import expm, eye, frobenius, skew, sym
from noisegan.plugins.geometry.precision import widened
from noisegan.plugins.geometry.vector import positive


class Grassmannian(Compact):
    """Gr(n, p), points [n, n] of rank p. The injectivity radius is pi / sqrt 2, where a principal angle becomes pi / 2.
    (geomstats 2.8 returns pi / 2, the value for half its metric, which is on the safe side.)

    Args:
        n: size of the matrices.
        p: dimension of the subspaces, less than n.
    """

    name = "grassmannian"
    sizes = "n, p < n: projectors of rank p, n x n"
    radius = "pi / sqrt 2"
    at_zero = "smooth"
    frame = "singular where a subspace is not transversal to the complement of the first p axes"
    bound = math.pi / math.sqrt(2)

    def __init__(self, n: int, p: int) -> None:
        spectral.compilable()
        self.n, self.p = positive(self.name, "n", n), positive(self.name, "p", p)
        if p >= n:
            raise NoiseganError(f"manifold 'grassmannian': p={p} is not allowed; give less than n={n}")
        self.dim = p * (n - p)
        self.point_shape = (n, n)

    @property
    def num_normals(self) -> int:
        return self.n**2

    @widened
    def project(self, u: Tensor) -> Tensor:
        """The projector on the p largest eigenvalues of the symmetric part; smooth where the p-th is single."""
        return spectral.top_projector(u, self.p)

    @widened
    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """P U (I - P) and its transpose, of the symmetric part of U."""
        across = x @ sym(u)
        across = across - across @ x
        return across + across.mT

    @widened
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return frobenius(u, v)

    @widened
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        turn = expm(2 * skew(sym(v) @ x))
        return sym(turn @ x @ turn.mT)

    @widened
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """W = log(R) / 2 for the product R = (2Q - I)(2P - I) of reflections, and V = W P - P W."""
        one = eye(self.n, x)
        product = spectral.rotation_log((2 * y - one) @ (2 * x - one)) @ x / 2
        return self.to_tangent(x, product + product.mT)

    def origin(self, like: Tensor) -> Tensor:
        """The projector on the first p axes."""
        return torch.diag((torch.arange(self.n, device=like.device) < self.p).to(like.dtype))

    @widened
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """The frame of the origin P_0, blocks (0 B^T; B 0) / sqrt 2, turned by the shortest rotation that takes P_0 to
        P (Kato's direct rotation): the root of (2P - I)(2P_0 - I).

        It cannot be continued to subspaces that hold a vector orthogonal to the first p axes: directions are lost
        there, and vectors are shorter than xi.
        """
        block = xi.unflatten(-1, (self.n - self.p, self.p)) / math.sqrt(2)  # B, [..., n - p, p]
        turn = self._turn(x)
        product: Tensor = turn[..., :, self.p :] @ block @ turn[..., :, : self.p].mT
        return product + product.mT

    @widened
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        turn = self._turn(x)
        return (turn[..., :, self.p :].mT @ v @ turn[..., :, : self.p]).flatten(-2) * math.sqrt(2)

    @widened
    def tangent_noise(self, x: Tensor, e: Tensor) -> Tensor:
        """The tangent part of a matrix of standard normals, e [..., n^2] row by row: no frame, no singular point."""
        return self.to_tangent(x, e.unflatten(-1, (self.n, self.n)))

    def _turn(self, x: Tensor) -> Tensor:
        one = eye(self.n, x)
        return spectral.rotation_root((2 * x - one) @ (2 * self.origin(x) - one))
