"""What manifolds of matrices share: the matrix exponential, symmetric matrices as vectors, sizes.

Nothing here uses an eigendecomposition, so nothing minds equal eigenvalues; see `spectral` for what needs one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisegan.plugins.geometry.manifold import Manifold
from noisegan.plugins.geometry.precision import widened

_SQUARINGS = 4
_SAME = 64
_DEGREE = {torch.float32: 8, torch.float64: 16}


def sym(a: Tensor) -> Tensor:
    """The symmetric part, [..., n, n]."""
    return (a + a.mT) / 2


def skew(a: Tensor) -> Tensor:
    """The skew-symmetric part, [..., n, n]."""
    return (a - a.mT) / 2


def frobenius(a: Tensor, b: Tensor) -> Tensor:
    """tr(A^T B): [..., n, p] -> [...]."""
    return (a * b).sum((-2, -1))


def eye(n: int, like: Tensor) -> Tensor:
    """The identity, [n, n], in the dtype and on the device of `like`."""
    return torch.eye(n, dtype=like.dtype, device=like.device)


def expm(a: Tensor) -> Tensor:
    """exp(A) of [..., n, n] by products: Taylor polynomial of A/16 (Paterson and Stockmeyer 1973), four squarings.

    For symmetric and skew-symmetric A the error is at rounding up to a spectral radius of 8 and grows beyond; for
    symmetric A the result stays positive definite, up to rounding, at any radius, as Taylor polynomials of exp of even
    degree have no real zero. The number of products is fixed, so that nothing waits for a norm and one matrix of a
    batch does not change the rounding of another.
    """
    degree = _DEGREE[a.dtype]
    a = a / 2**_SQUARINGS
    a2 = a @ a
    a3, a4 = a2 @ a, a2 @ a2
    one = eye(a.shape[-1], a)

    def four_terms(k: int) -> Tensor:  # A^k / k! up to A^(k+3) / (k+3)!, over A^k
        c = [1 / math.factorial(k + i) for i in range(4)]
        return c[0] * one + c[1] * a + c[2] * a2 + c[3] * a3

    total = four_terms(degree - 4) + a4 / math.factorial(degree)
    for k in range(degree - 8, -1, -4):
        total = four_terms(k) + a4 @ total
    for _ in range(_SQUARINGS):
        total = total @ total
    return total


def symmetric_of(xi: Tensor, n: int) -> Tensor:
    """Coordinates [..., n(n+1)/2] to symmetric matrices [..., n, n], an isometry: |S|_F = |xi|.

    The diagonal comes first, then what is above it, row by row, over sqrt 2.
    """
    diagonal, above = xi[..., :n], xi[..., n:] / math.sqrt(2)
    rows, columns = torch.triu_indices(n, n, 1, device=xi.device)
    upper = xi.new_zeros(*xi.shape[:-1], n, n)
    upper[..., rows, columns] = above
    return upper + upper.mT + torch.diag_embed(diagonal)


def coordinates_of_symmetric(s: Tensor) -> Tensor:
    """The inverse of `symmetric_of`: [..., n, n] -> [..., n(n+1)/2]."""
    n = s.shape[-1]
    rows, columns = torch.triu_indices(n, n, 1, device=s.device)
    above = (s[..., rows, columns] + s[..., columns, rows]) / math.sqrt(2)
    return torch.cat((s.diagonal(dim1=-2, dim2=-1), above), -1)


def skew_of(xi: Tensor, n: int) -> Tensor:
    """Coordinates [..., n(n-1)/2] to skew-symmetric matrices [..., n, n] with |A|_F^2 / 2 = |xi|^2: the entries above
    the diagonal, row by row."""
    rows, columns = torch.triu_indices(n, n, 1, device=xi.device)
    upper = xi.new_zeros(*xi.shape[:-1], n, n)
    upper[..., rows, columns] = xi
    return upper - upper.mT


def coordinates_of_skew(a: Tensor) -> Tensor:
    """The inverse of `skew_of`: [..., n, n] -> [..., n(n-1)/2]."""
    n = a.shape[-1]
    rows, columns = torch.triu_indices(n, n, 1, device=a.device)
    return (a[..., rows, columns] - a[..., columns, rows]) / 2


class MatrixManifold(Manifold):
    """A manifold whose points are matrices, the last two axes of a tensor."""

    tier = "native"

    @widened
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Geodesic distance, [...]. Products of matrices leave rounding errors also where y = x: distances below 64
        of them are zero, with gradient zero, as the direction of such a gradient would be arbitrary."""
        q = self.squared_dist(x, y)
        apart = q > (_SAME * torch.finfo(q.dtype).eps) ** 2
        return apart * q.where(apart, q.new_ones(())).sqrt()
