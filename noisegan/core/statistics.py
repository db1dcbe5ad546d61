"""Means and deviations of training quantities between two reports."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Statistics:
    """Collects values by name as (count, sum, sum of squares); its state is plain data and survives a resume.

    A name keeps its tensor, which changes in place: what a captured CUDA graph adds to is still there.
    """

    def __init__(self) -> None:
        self._moments: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Add any number of values. They stay on their device, so nothing waits for a GPU."""
        v = values.detach().double() if values.device.type != "mps" else values.detach().float()
        self._add(name, torch.stack((v.new_full((), v.numel()), v.sum(), v.square().sum())))

    def merge(self, other: Statistics, where: Tensor) -> None:
        """Add all that another has collected where a boolean on the device says so, else nothing."""
        for name, moments in other._moments.items():
            self._add(name, moments.masked_fill(~where, 0))

    def names(self) -> list[str]:
        """Sorted, so that processes and resumed runs agree on the order."""
        return sorted(self._moments)

    def moments(self) -> Tensor:
        """[names, 3], to be summed over processes; a row of zeros for a name without values."""
        return torch.stack([self._moments[name] for name in self.names()]) if self._moments else torch.zeros(0, 3)

    def replace_moments(self, moments: Tensor) -> None:
        """Take over moments, [names, 3] in the order of `names`."""
        for name, values in zip(self.names(), moments, strict=True):
            self._moments[name].copy_(values)

    def clear(self) -> None:
        for moments in self._moments.values():
            moments.zero_()

    def state(self) -> dict[str, list[float]]:
        """What has values."""
        found = zip(self.names(), self.moments().tolist(), strict=True)
        return {name: moments for name, moments in found if moments[0] > 0}

    def load_state(self, state: dict[str, list[float]], device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._moments = {name: torch.tensor(m, dtype=dtype, device=device) for name, m in state.items()}

    def _add(self, name: str, moments: Tensor) -> None:
        if name not in self._moments:
            self._moments[name] = torch.zeros_like(moments)
        self._moments[name].add_(moments)


def summarise(names: Iterable[str], moments: Tensor) -> dict[str, dict[str, Any]]:
    """`{name: {num, mean, std}}` of summed moments, [names, 3]; names without values are left out."""
    summary = {}
    for name, (num, total, squares) in zip(names, moments.tolist(), strict=True):
        if num > 0:
            mean = total / num
            summary[name] = {"num": int(num), "mean": mean, "std": math.sqrt(max(squares / num - mean**2, 0))}
    return summary
