"""Means and deviations of training quantities between two reports."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Statistics:
    """Collects values by name as (count, sum, sum of squares); its state is plain data and survives a resume."""

    def __init__(self) -> None:
        self._moments: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Add any number of values. They stay on their device, so nothing waits for a GPU."""
        v = values.detach().double() if values.device.type != "mps" else values.detach().float()
        moments = torch.stack((v.new_tensor(v.numel()), v.sum(), v.square().sum()))
        known = self._moments.get(name)
        self._moments[name] = moments if known is None else known + moments

    def copy(self) -> Statistics:
        """As it is now; later additions to either leave the other alone."""
        other = Statistics()
        other._moments = dict(self._moments)
        return other

    def names(self) -> list[str]:
        return list(self._moments)

    def moments(self) -> Tensor:
        """[names, 3], to be summed over processes."""
        return torch.stack(list(self._moments.values())) if self._moments else torch.zeros(0, 3)

    def replace_moments(self, moments: Tensor) -> None:
        """Take over moments, [names, 3] in the order of `names`."""
        self._moments = dict(zip(self._moments, moments, strict=True))

    def clear(self) -> None:
        self._moments.clear()

    def state(self) -> dict[str, list[float]]:
        return {name: m.tolist() for name, m in self._moments.items()}

    def load_state(self, state: dict[str, list[float]], device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._moments = {name: torch.tensor(m, dtype=dtype, device=device) for name, m in state.items()}


def summarise(names: Iterable[str], moments: Tensor) -> dict[str, dict[str, Any]]:
    """`{name: {num, mean, std}}` of summed moments, [names, 3]."""
    summary = {}
    for name, (num, total, squares) in zip(names, moments.tolist(), strict=True):
        mean = total / num
        summary[name] = {"num": int(num), "mean": mean, "std": math.sqrt(max(squares / num - mean**2, 0))}
    return summary
