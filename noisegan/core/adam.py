"""torch's Adam as it is, without the wrappers that prepare it for torch.compile.

At the first use of an optimiser they import the whole compiler, which would cost every training run two seconds of its
start. Nothing here is compiled, and beneath its wrappers the optimiser is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

COMPILER_WRAPPERS = (
    "_disable_dynamo.<locals>.inner",  # keeps the compiler out
    "_use_grad_for_differentiable.<locals>._use_grad",  # no_grad, and a break for the compiler before and after
    "Optimizer.profile_hook_step.<locals>.wrapper",  # hooks; an optimiser puts it back when it is built
)
"""Functions of torch (2.6 to 2.14) that wrap the methods of optimisers. Any other is left where it is: where a version
of torch names or nests them otherwise, the start is slow again and nothing else changes."""


def unwrapped(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method without what stands outermost of `COMPILER_WRAPPERS`."""
    while isinstance(method, FunctionType) and method.__code__.co_qualname in COMPILER_WRAPPERS:
        method = method.__wrapped__  # type: ignore[attr-defined]
    return method


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`; arguments, states and results are those. `differentiable` has no effect."""

    add_param_group = unwrapped(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrapped(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(unwrapped(torch.optim.Adam.step))
