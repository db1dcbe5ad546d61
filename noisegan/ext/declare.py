"""How operations are declared to torch: schema, shapes, plain-PyTorch twin, native kernels, derivative.

The composite implementation, to which every device falls, runs the native kernels or the plain-PyTorch twin.
`prepare(device)` registers it for a type of device by itself, and lets eager calls go past the dispatcher.
"""

from __future__ import annotations

import threading
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
_registered: set[str] = set()
_registering = threading.Lock()


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
    _library.impl(name, partial(_first, name), "CompositeExplicitAutograd")
    torch.library.register_fake(f"noisegan::{name}", fake, lib=_library)
    _operations[name] = getattr(torch.ops.noisegan, name).default
    _twins[name], _by_kernels[name] = twin, by_kernels


def prepare(device: torch.device) -> None:
    """Give the operations the native kernels of this type of device, if there are any. Cheap after the first call.

    Not while a compiler traces: what it makes is prepared when it first runs.
    """
    if torch.compiler.is_compiling():
        return
    kind = device.type
    if load.kernels_for(kind) is None or kind in _registered:
        return
    with _registering:
        if kind not in _registered:
            for name in _twins:
                _library.impl(name, partial(run, name, kind), kind.upper())
            _registered.add(kind)


def _first(name: str, *arguments: Any) -> Any:
    device = arguments[0].device
    prepare(device)
    return run(name, device.type, *arguments)


def call(name: str, *arguments: Any) -> Any:
    """An operation without its derivative. Where nobody listens and all tensors are plain, the kernels are called
    straight: the dispatcher takes longer than many a map."""
    kind = arguments[0].device.type
    if _is_transformed() or kind not in _registered or torch._C._len_torch_dispatch_stack() > 0:
        return _operations[name](*arguments)
    plain = _plain_keys(kind)
    for value in arguments:
        if isinstance(value, Tensor) and torch._C._dispatch_keys(value).raw_repr() != plain:
            return _operations[name](*arguments)
    return run(name, kind, *arguments)


def run(name: str, kind: str, *arguments: Any) -> Any:
    """An operation by the kernels chosen now: `load.forget` may have led back to none."""
    kernels = load.kernels_for(kind)
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
