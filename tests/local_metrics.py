"""What the tests of metrics on R^C share: geodesic steps written the long way, and geomstats' own geodesics."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from noisegan.core.rng import Streams
from noisegan.plugins.geometry.geomstats import import_geomstats

Array = NDArray[Any]
MetricMatrix = Callable[[Tensor], Tensor]
"""A point [C] -> g [C, C]."""


def normal(name: str, n: int, *shape: int) -> Tensor:
    return Streams(8)[name].source(ids=range(n)).normal(*shape).double()


def pixels(x: Tensor) -> Array:
    """[N, C, H, W] -> [N H W, C]."""
    rows: Array = x.detach().flatten(2).transpose(1, 2).flatten(0, 1).numpy()
    return rows


def second_order(x: Array, v: Array, gamma: Array, r: float) -> Array:
    """The step of the page with Christoffel symbols gamma [k, i, j] at one pixel: x, v [C] -> [C]."""
    a = -np.einsum("kij,i,j->k", gamma, v, v)
    held = np.sqrt(1 + r**2 * (a @ a) / (v @ v))
    found: Array = x + r * v + r**2 / 2 * a / held
    return found


def check_against_geomstats(
    metric: MetricMatrix, point: Tensor, v: Tensor, a: Tensor, stepped: Callable[[float], Tensor]
) -> None:
    """geomstats' Christoffel symbols to rounding; its geodesics to third order: twice as far, eight times the error.

    Its values, not its gradients, which lack the derivative of the metric.

    Args:
        point, v, a: [C], velocity and acceleration there.
        stepped: where the strategy goes from there along v, by length.
    """
    space = geomstats_space(metric, len(point))
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # geomstats makes its constants in the default dtype
    try:
        gamma = space.metric.christoffels(point)
        ends = {r: space.metric.exp(r * v / v.norm(), point) for r in (0.05, 0.1, 0.2)}
    finally:
        torch.set_default_dtype(default)
    torch.testing.assert_close(a, -torch.einsum("kij,i,j->k", gamma, v, v), rtol=0, atol=1e-12)
    errors, straight = {}, {}
    for r, end in ends.items():
        errors[r] = float((stepped(r) - end).norm())
        straight[r] = float((point + r * v / v.norm() - end).norm())
        assert errors[r] < 0.4 * straight[r]
    assert errors[0.1] > 1e-8  # what is compared is not the integrator's own error
    for r in (0.05, 0.1):
        assert errors[2 * r] / errors[r] == pytest.approx(8, rel=0.2)
        assert straight[2 * r] / straight[r] == pytest.approx(4, rel=0.2)


def geomstats_space(metric: MetricMatrix, dim: int) -> Any:
    """R^dim with a metric that geomstats knows by its matrix alone."""
    import_geomstats()
    module: dict[str, ModuleType] = {
        name: importlib.import_module(f"geomstats.{name}")
        for name in ("geometry.euclidean", "geometry.riemannian_metric", "numerics.geodesic", "numerics.ivp")
    }

    class PageMetric(module["geometry.riemannian_metric"].RiemannianMetric):  # type: ignore[misc]
        def metric_matrix(self, base_point: Any = None) -> Any:
            flat = [metric(x) for x in base_point.reshape(-1, base_point.shape[-1])]
            return torch.stack(flat).reshape(*base_point.shape, base_point.shape[-1])

    space = module["geometry.euclidean"].Euclidean(dim, equip=False)
    space.equip_with_metric(PageMetric)
    integrator = module["numerics.ivp"].GSIVPIntegrator(n_steps=10, step_type="rk4")
    space.metric.exp_solver = module["numerics.geodesic"].ExpODESolver(space, integrator=integrator)
    return space
