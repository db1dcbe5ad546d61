"""A stand-in for CUDA graphs on the CPU: notes every operation of some work, and repeats them on the same memory.

As in a graph, Python numbers are those of the recording, and only what tensors hold may differ. What a graph could not
hold, or a host would have to wait for, is refused: reading a value, results whose size depends on values, copies to or
from the host.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST_READS = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero",
    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount", "aten::repeat_interleave",
    "aten::_linalg_check_errors", "aten::_linalg_eigh", "aten::_linalg_svd", "aten::linalg_eig", "aten::linalg_lstsq",
}  # fmt: skip
HOST_CALLS = (
    *(Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.item, Tensor.__array__, Tensor.new_tensor),
    *(Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__),
    *(torch.tensor, torch.from_numpy),
)


class HostRead(Exception):
    """Work that no graph can hold."""


class _Calls(TorchFunctionMode):
    """On a CPU a copy to the host is none and leaves no operation behind: here it is caught by its name."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        named = any(isinstance(a, (torch.device, str)) for a in (*args, *kwargs.values()))
        caller = sys._getframe(1).f_globals.get("__name__", "")
        moves = (
            func is Tensor.to and named and not caller.startswith("torch.")
        )  # optimisers name the device they are on
        brings = func is torch.as_tensor and not isinstance(args[0], Tensor)
        if func in HOST_CALLS or moves or brings:
            raise HostRead(f"{getattr(func, '__name__', func)} goes to the host and back")
        return func(*args, **kwargs)


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        boolean = func is torch.ops.aten.index.Tensor and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if func._schema.name in HOST_READS or boolean:
            raise HostRead(f"{func} waits for the device")
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        return out


class Recorder:
    """Records work on the CPU; an implementation of `noisegan.core.graphs.Capture`."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0
        self.operations: set[str] = set()
        self._users: weakref.WeakSet[Callable[[], None]] | None = None  # of the memory; None: it is new

    def warm_up(self, work: Callable[[], None]) -> None:
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """A CPU cannot record without doing the work, so the first call of what is returned does nothing.

        As CUDA's memory pools do, it refuses memory that all its users have left.
        """
        assert self._users is None or len(self._users), "what was recorded here is gone: forget() is missing"
        tape = _Tape()
        with _Calls(), tape:
            work()
        self.recorded += 1
        self.operations |= {func._schema.name for func, *_ in tape.calls}
        done = True

        def replay() -> None:
            nonlocal done
            if not done:
                self.replayed += 1
                with torch.no_grad():
                    for call in tape.calls:
                        _repeat(*call)
            done = False

        self._users = self._users or weakref.WeakSet()
        self._users.add(replay)
        return replay

    def forget(self) -> None:
        self._users = None


def _repeat(func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Do an operation again; results go where they were."""
    if any(returned.alias_info is not None for returned in func._schema.returns):
        if any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments):
            func(*args, **kwargs)  # in place; a view is there already
        return
    again = func(*args, **kwargs)
    for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
        if isinstance(old, Tensor) and not old._is_zerotensor():  # zeros that take no memory
            old.copy_(new)
