"""How operations are declared to torch: schema, shapes, plain-PyTorch twin, native kernels, derivative.

There is one implementation, the composite one, to which every device falls: it runs the native kernels of the device,
chosen when it is first used, or the plain-PyTorch twin. Eager calls go past the dispatcher where they may.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from noisegan.ext import load
from noisegan.ext.cache import BuildError

_library = torch.library.Library("noisegan", "DEF")
_operations: dict[str, Callable[..., Any]] = {}
_twins: dict[str, Callable[..., Any]] = {}
_by_kernels: dict[str, Callable[..., Any]] = {}


def declare(
    name: str, schema: str, fake: Callable[..., Any], twin: Callable[..., Any], by_kernels: Callable[..., Any]
) -> None:
    """
    Args:
        schema: arguments and results.
        fake: gives results of the right shapes, dtypes and strides.
        twin: the operation in plain PyTorch.
        by_kernels: the same, after the kernels of a device.
    """
    _library.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
    _library.impl(name, partial(run, name), "CompositeExplicitAutograd")
    torch.library.register_fake(f"noisegan::{name}", fake, lib=_library)
    _operations[name] = getattr(torch.ops.noisegan, name).default
    _twins[name], _by_kernels[name] = twin, by_kernels


def call(name: str, *arguments: Any) -> Any:
    """An operation without its derivative. Where nobody listens and all tensors are plain, the kernels are called
    straight: the dispatcher takes longer than many a map."""
    kind = arguments[0].device.type
    if _is_transformed() or torch._C._len_torch_dispatch_stack() > 0 or load.kernels_for(kind) is None:
        return _operations[name](*arguments)
    plain = _plain_keys(kind)
    for value in arguments:
        if isinstance(value, Tensor) and torch._C._dispatch_keys(value).raw_repr() != plain:
            return _operations[name](*arguments)
    return run(name, *arguments)


def run(name: str, *arguments: Any) -> Any:
    """An operation by the kernels chosen for the device, else by its twin."""
    kernels = load.kernels_for(arguments[0].device.type)
    if kernels is not None:
        with suppress(BuildError):  # this GPU is of another kind than the first, and has none
            return _by_kernels[name](kernels, *arguments)
    return _twins[name](*arguments)


def differentiable(name: str, backward: Callable[..., Any], setup: Callable[..., Any]) -> Callable[..., Any]:
    """Registers an operation's derivative; returns the operation as it is called by noisegan.

    In eager mode that is an `autograd.Function` before the operation: what torch.library makes of the same derivative
    asks the schema for its arguments at every call, which takes longer than many a map.
    """
    torch.library.register_autograd(f"noisegan::{name}", backward, setup_context=setup, lib=_library)

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = call(name, *inputs)
        setup(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(f"Eager_{name}", (torch.autograd.Function,), methods)

    def eager(*inputs: Any) -> Any:
        if _is_transformed():
            return _operations[name](*inputs)
        return function.apply(*inputs) if torch.is_grad_enabled() else call(name, *inputs)

    return eager


def _is_transformed() -> bool:
    """Whether a compiler or a transform of functions has to see the operations themselves."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


@cache
@torch.inference_mode(False)
def _plain_keys(kind: str) -> int:
    """Dispatch keys of a tensor that is nothing but its memory: no subclass, no batch of a transform, no note that it
    is negated."""
    keys: int = torch._C._dispatch_keys(torch.empty(0, device=kind)).raw_repr()
    return keys
