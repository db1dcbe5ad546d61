"""What the checks of a manifold stand on: points and vectors to check at, and comparisons that say what was wrong.

Points are Exp_o of normal coordinates shorter than one and than half the injectivity radius; tangent vectors are
shorter than 1.2 and than 0.8 of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from noisegan.plugins.geometry.manifold import Manifold

_CLOSE = 1e-8
"""What float64 results may differ by that are equal in exact arithmetic."""
_STEEP = 1e-4
"""Tolerance of float64 derivatives taken by differences."""


class Broken(Exception):
    """A promise that is not kept; the message is one sentence: what was found, what is expected."""


@dataclass(frozen=True)
class Subject:
    """What a check is given: the manifold, and points and vectors for it that depend on the seed alone."""

    M: Manifold
    seed: int
    device: str
    float32_error: float

    def normal(self, *shape: int, call: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + call)
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(self.device)

    def origin(self) -> Tensor:
        return self.M.origin(self.normal(1))

    def coordinates(self, x: Tensor, longest: float, call: int) -> Tensor:
        """Normal coordinates at x [..., dim], of 0.3 to 1 times `longest` or the injectivity radius."""
        batch = x.shape[: x.dim() - len(self.M.point_shape)]
        xi = self.normal(*batch, self.M.dim, call=call)
        radius = self.M.injectivity_radius(x).clamp(max=1.0).unsqueeze(-1)  # [..., 1]
        share = 0.3 + 0.7 * torch.sigmoid(self.normal(*batch, 1, call=call + 100))
        direction: Tensor = xi / xi.norm(dim=-1, keepdim=True)
        return longest * radius * share * direction

    def points(self, *batch: int, call: int = 1) -> Tensor:
        o = self.origin().expand(*batch, *self.M.point_shape)
        return self.M.exp(o, self.M.from_normal(o, self.coordinates(o, 0.5 if self.bounded(o) else 1.0, call)))

    def vectors(self, x: Tensor, call: int = 2) -> Tensor:
        """Tangent vectors at x."""
        return self.M.from_normal(x, self.coordinates(x, 0.8 if self.bounded(x) else 1.2, call))

    def bounded(self, x: Tensor) -> bool:
        return bool(self.M.injectivity_radius(x).isfinite().any())


CHECKS: dict[str, Callable[[Subject], None]] = {}
"""All checks by name, in the order in which they run."""


def check(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
    CHECKS[function.__name__] = function
    return function


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Broken(message)


def require_close(found: Tensor, expected: Tensor, what: str, tolerance: float = _CLOSE) -> None:
    require(found.shape == expected.shape, f"{what}: shape {list(found.shape)}, expected {list(expected.shape)}")
    require(bool(found.isfinite().all()), f"{what}: not all values are finite")
    error = float(((found - expected).abs() / (1 + expected.abs())).max()) if found.numel() else 0.0
    require(
        error <= tolerance, f"{what}: off by {error:.1e} relative to one plus the value, {tolerance:.0e} is allowed"
    )


def differentiate(check: Callable[..., bool], function: Callable[..., Any], inputs: Any, what: str) -> None:
    """Against finite differences, in one random direction (fast mode). gradcheck draws it from the global state."""
    inputs = tuple(t.clone().requires_grad_() for t in inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            check(function, inputs, fast_mode=True, atol=_STEEP, rtol=1e-3)
        except GradcheckError as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise Broken(f"{what} differs from finite differences in float64: {lines[0].rstrip(',:')}") from error
