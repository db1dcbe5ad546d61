"""Phases of a training step as CUDA graphs: captured once, then replayed by one call each, Python no longer in the way.

A graph runs the same kernels on the same memory every time. What a phase reads must therefore lie where it lay (inputs
are copied in; parameters, averages, statistics and buffers change in place), and nothing in it may ask the device for a
value. `noisegan.core.phases` keeps to that, and the rules for injectors ask it of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

import torch
from torch import nn

from noisegan.core.distributed import World
from noisegan.core.phases import RealBatch

WARM_UP = 3
"""Plays of a phase before it is captured: states of optimisers are made then, kernels loaded, workspaces taken."""

Work: TypeAlias = Callable[[], None]

_LOG = logging.getLogger("noisegan")


class Capture(Protocol):
    """A way to record work."""

    def warm_up(self, work: Work) -> None:
        """Do the work as it will be recorded."""
        ...

    def record(self, work: Work) -> Work:
        """What repeats the work; it has not been done yet.

        Raises:
            RuntimeError: when the work cannot be recorded.
        """
        ...


class CudaCapture:
    """Records work as CUDA graphs that share their memory: phases run one after another and leave nothing in it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Work) -> None:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        replay: Work = graph.replay
        return replay


class PhaseGraphs:
    """Plays phases: as they are until they have warmed up, then from their graphs. Takes the place of `play`.

    Args:
        phase: does a phase with its inputs.
        capture: records it.
        modules: whose buffers the phases read; if one of them has moved, all is captured again.
    """

    def __init__(self, phase: Callable[[str, RealBatch], None], capture: Capture, modules: Sequence[nn.Module]) -> None:
        self._phase, self._capture, self._modules = phase, capture, modules
        self._inputs: dict[str, RealBatch] = {}
        self._plays: Counter[str] = Counter()
        self._recorded: dict[str, Work] = {}
        self._places = self._buffers()

    def __call__(self, name: str, inputs: RealBatch) -> None:
        """Do a phase with these inputs, whose shapes never change."""
        if name not in self._inputs:
            self._inputs[name] = RealBatch(inputs.images.clone(), inputs.labels.clone())
        held = self._inputs[name]
        held.images.copy_(inputs.images)
        held.labels.copy_(inputs.labels)
        work = partial(self._phase, name, held)
        self._plays[name] += 1
        if self._plays[name] <= WARM_UP:
            self._capture.warm_up(work)
            return
        places = self._buffers()
        if places != self._places:
            self._recorded.clear()
            self._places = places
        if name not in self._recorded:
            self._recorded[name] = self._record(name, work)
        self._recorded[name]()

    def _record(self, name: str, work: Work) -> Work:
        try:
            return self._capture.record(work)
        except RuntimeError as error:
            _LOG.warning("noisegan: phase %s runs without a CUDA graph (--graphs off accepts that): %s", name, error)
            return work

    def _buffers(self) -> list[int]:
        return [buffer.data_ptr() for module in self._modules for buffer in module.buffers()]


def use_graphs(option: str, world: World) -> bool:
    """Whether phases are captured: `auto` does on a CUDA GPU that trains alone; messages between processes are not."""
    return option == "auto" and world.device.type == "cuda" and world.size == 1
