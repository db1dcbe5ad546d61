"""The floor: the very convolutions of a step, run bare.

While a step runs, every convolution that it asks for is noted: operator, shapes, strides, dtypes and all other
arguments. They are then run again in the same order on random tensors of the same kind, and nothing else is: by
torch's convolutions, and as noisegan computes them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from noisegan.ext import reference

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


class ConvolutionRecorder(TorchDispatchMode):
    """Notes each convolution, forward and backward, under the phase that is on.

    Depthwise ones are left out: where noisegan has no native kernels they are the resampling filter, which is work
    beside the convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase = ""
        self.calls: dict[str, list[Call]] = defaultdict(list)
        self._tensors: dict[Any, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if "conv" in func._schema.name and not _is_depthwise(args):
            self.calls[self.phase].append((func, self._like(args), self._like(kwargs)))
        return func(*args, **kwargs)

    def _like(self, value: Any) -> Any:
        """The same with random tensors of the same kind in place of tensors; one tensor serves all of its kind."""
        if isinstance(value, Tensor):
            key = (value.dtype, tuple(value.shape), value.stride())
            if key not in self._tensors:
                held = [1 if stride == 0 else size for size, stride in zip(value.shape, value.stride(), strict=True)]
                like = torch.empty_strided(held, value.stride(), dtype=value.dtype, device=value.device)
                self._tensors[key] = like.normal_().expand(value.shape)
            return self._tensors[key]
        if isinstance(value, (list, tuple)):
            return type(value)(self._like(part) for part in value)
        return {key: self._like(part) for key, part in value.items()} if isinstance(value, dict) else value


def bare(calls: list[Call], device: str, *, torchs: bool) -> Callable[[], None]:
    """What runs the noted convolutions again. Each result is dropped at once, as it is in training before long.

    On a GPU they are a CUDA graph, so that Python is no part of the floor.

    Args:
        torchs: put torch's convolutions in the place of noisegan's.
    """
    if torchs:
        calls = [(_torchs(func), args, kwargs) for func, args, kwargs in calls]

    @torch.no_grad()
    def again() -> None:
        for func, args, kwargs in calls:
            func(*args, **kwargs)

    if device != "cuda":
        return again
    again()  # chooses algorithms
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again()
    replay: Callable[[], None] = graph.replay
    return replay


def _torchs(func: Any) -> Any:
    name: str = func._schema.name
    return getattr(reference, name.removeprefix("noisegan::")) if name.startswith("noisegan::") else func


def _is_depthwise(args: tuple[Any, ...]) -> bool:
    """Whether a filter of one input channel goes with each channel of the map."""
    maps = [value for value in args if isinstance(value, Tensor) and value.ndim == 4]
    groups = [value for value in args if isinstance(value, int) and not isinstance(value, bool)]
    return len(maps) > 1 and bool(groups) and maps[-1].shape[1] == 1 and groups[-1] == maps[-1].shape[0] > 1
