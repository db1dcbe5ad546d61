"""Phases of a training step as CUDA graphs: captured once, then replayed by one call each, Python no longer in the way.

A graph runs the same kernels on the same memory every time. What a phase reads must therefore lie where it lay (inputs
are copied in; parameters, averages, statistics and buffers change in place), and nothing in it may ask the device for a
value. `noisegan.core.phases` keeps to that, and the rules for injectors ask it of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from noisegan.core.distributed import World
from noisegan.core.phases import PHASES, RealBatch

WARM_UP = 3
"""Plays of a phase before it is captured: states of optimisers are made then, kernels loaded, workspaces taken."""
CAPTURES = 3
"""How often a phase is captured at most, where modules keep changing what a graph holds fast."""

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

    def forget(self) -> None:
        """All that has been recorded is out of use."""
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
        try:
            # The outer of the two puts the current stream back where the inner one fails to end the capture.
            with torch.cuda.stream(self._stream), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                work()
        except RuntimeError:
            with suppress(RuntimeError):  # some versions of torch go on allocating for the capture; others say no here
                torch._C._cuda_endAllocateToPool(self._stream.device_index, self._pool)
            self.forget()
            raise
        replay: Work = graph.replay
        return replay

    def forget(self) -> None:
        # torch refuses a pool that no graph uses any more while something, such as a gradient, still lies in it.
        self._pool = torch.cuda.graph_pool_handle()


class PhaseGraphs:
    """Plays phases: as they are until they have warmed up, then from their graphs. Takes the place of `play`.

    Args:
        phase: does a phase with its inputs.
        capture: records it.
        modules: that the phases use. If one of them keeps a tensor elsewhere than before, or another number, all is
            captured again; where that happens time and again, phases go on as they are, with a warning.
    """

    def __init__(self, phase: Callable[[str, RealBatch], None], capture: Capture, modules: Sequence[nn.Module]) -> None:
        self._phase, self._capture, self._modules = phase, capture, modules
        self._inputs: dict[str, RealBatch] = {}
        self._plays: Counter[str] = Counter()
        self._recorded: dict[str, Work] = {}
        self._eager: set[str] = set()  # phases that no graph holds
        self._fixed: dict[tuple[int, str], float] = {}  # in the graphs
        self._changes = 0

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
        if name not in self._eager:
            self._check()
        if name not in self._recorded and name not in self._eager:
            self._record(name, work)
        self._recorded.get(name, work)()

    def _check(self) -> None:
        """Drop all graphs where what they hold fast has changed."""
        before, self._fixed = self._fixed, _fixed(self._modules)
        if not self._recorded or self._fixed == before:
            return
        self._recorded.clear()
        self._capture.forget()
        self._changes += 1
        if self._changes == CAPTURES:
            self._eager.update(PHASES)
            keys = [key for key in before | self._fixed if before.get(key) != self._fixed.get(key)]
            _LOG.warning(
                "noisegan: phases run without CUDA graphs (--graphs off accepts that), as they would go on with old "
                "values of %s; register a buffer and change it in place",
                ", ".join(dict.fromkeys(label for _, label in keys)),
            )

    def _record(self, name: str, work: Work) -> None:
        try:
            self._recorded[name] = self._capture.record(work)
        except RuntimeError as error:
            self._eager.add(name)
            cause = error.__context__ or error  # a capture that went wrong fails to end, too
            reason = str(cause).partition("\n")[0]
            _LOG.warning("noisegan: phase %s runs without a CUDA graph (--graphs off accepts that): %s", name, reason)


def _fixed(modules: Sequence[nn.Module]) -> dict[tuple[int, str], float]:
    """What a graph holds fast, by module and name: where the tensors lie that modules keep, and numbers."""
    found: dict[tuple[int, str], float] = {}
    for index, module in enumerate(m for outer in modules for m in outer.modules()):
        for name, value in (*vars(module).items(), *module.named_buffers(recurse=False)):
            if isinstance(value, Tensor):
                value = value.data_ptr()
            if isinstance(value, (int, float)):
                found[index, f"{type(module).__name__}.{name}"] = value
    return found


def use_graphs(option: str, world: World) -> bool:
    """Whether phases are captured: `auto` does on a CUDA GPU that trains alone; messages between processes are not."""
    return option == "auto" and world.device.type == "cuda" and world.size == 1
