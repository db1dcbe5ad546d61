"""Low precision: a map that squares, cancels or takes roots runs in float32 at least, whatever its inputs are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

M = TypeVar("M", bound=Callable[..., Any])


def widened(method: M) -> M:
    """Decorator of a method of tensors: it computes in float32 at least and outside autocast, and returns the widest
    dtype it was given. float64 stays float64."""

    @functools.wraps(method)
    def run(self: Any, *inputs: Any) -> Any:
        tensors = [t for t in inputs if isinstance(t, Tensor)]
        given = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
        wide = torch.promote_types(given, torch.float32)
        device = tensors[0].device.type
        if wide == given and not torch.is_autocast_enabled(device):
            return method(self, *inputs)
        with torch.autocast(device, enabled=False):
            return _cast(method(self, *_cast(inputs, wide)), given)

    return cast(M, run)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple):
        return tuple(_cast(item, dtype) for item in value)
    return value.to(dtype) if isinstance(value, Tensor) else value
