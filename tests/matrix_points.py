"""Points and tangents of manifolds of matrices, and derivatives checked twice: what their tests share.

A file of tests takes the fixture over by assignment: `numbers = matrix_points.numbers`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from noisegan.plugins.geometry.manifold import Manifold

f64 = torch.float64


@pytest.fixture
def numbers() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def points(m: Manifold, count: int, g: torch.Generator) -> Tensor:
    return m.carry(0.5 * torch.randn(count, m.num_features, dtype=f64, generator=g))[0]


def tangents(m: Manifold, x: Tensor, g: torch.Generator, length: float = 1.0) -> Tensor:
    """Inside the injectivity radius."""
    xi = torch.randn(len(x), m.dim, dtype=f64, generator=g)
    xi = length * xi / xi.norm(dim=-1, keepdim=True)
    return m.limit(x, m.from_normal(x, xi), 0.9)


def furthest(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def _smooth(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    inputs = tuple(each.detach().clone().requires_grad_() for each in inputs)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, atol=1e-4, fast_mode=True)
