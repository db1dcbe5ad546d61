"""The recorder in the place of CUDA graphs bites: it repeats what a graph would and refuses what waits for the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from capturing import CPU, Run
from recording import HostRead, Recorder
from torch import Tensor

from noisegan.core import phases
from noisegan.core.graphs import WARM_UP
from noisegan.core.phases import PHASES, RealBatch, TrainingStep


@pytest.mark.parametrize("moved", ["step", "labels"])
def test_what_a_graph_would_repeat_is_noticed(moved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step number that is a Python number, and inputs that are not copied in: the bits differ."""
    eager, captured = Run("additive", labels=3), Run("additive", labels=3).captured()
    if moved == "step":
        honest = TrainingStep._source
        monkeypatch.setattr(
            *(TrainingStep, "_source"),
            lambda self, stream, ids: self.streams[stream].source(step=int(self.state.step), ids=ids),
        )
        assert eager.go(WARM_UP + 1) == captured.go(WARM_UP + 1)
        monkeypatch.setattr(TrainingStep, "_source", honest)
    else:
        play = captured.step.play
        captured.step.play = lambda name, inputs: play(name, inputs if captured.state.step <= WARM_UP else first[name])
        first = {name: RealBatch(torch.zeros(8, 1, 8, 8), torch.zeros(8, 3)) for name in PHASES}
        first |= {"G": RealBatch(torch.empty(0), torch.zeros(8, 3)), "PL": RealBatch(torch.empty(0), torch.zeros(4, 3))}
        eager.go(WARM_UP + 1)
        captured.go(WARM_UP + 1)
    assert eager.go(2) != captured.go(2)


@pytest.mark.parametrize(
    "read",
    [
        float,
        bool,
        Tensor.item,
        Tensor.tolist,
        Tensor.cpu,
        Tensor.numpy,
        lambda x: x.to("cpu"),
        lambda x: x.to(device=CPU),
        lambda x: torch.zeros(3)[x > 0],
        lambda x: torch.nonzero(x),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: torch.equal(x, x),
        lambda x: torch.tensor([1.0, 2.0]),
        lambda x: torch.as_tensor([1.0, 2.0]),
        lambda x: x.new_tensor(1.0),
        lambda x: torch.arange(3.0).repeat_interleave(x.long().expand(3)),
        lambda x: torch.linalg.eigh(x.expand(1, 1)),
        lambda x: torch.linalg.svd(x.expand(1, 1)),
        lambda x: torch.linalg.inv(x.expand(1, 1)),
    ],
)
def test_the_recorder_refuses_what_waits_for_the_host(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(HostRead):
        Recorder().record(lambda: read(torch.ones(())))


def test_a_host_read_in_a_phase_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the phases had them once: a norm that is looked at."""
    honest = phases.move

    def looking(optimizer: torch.optim.Optimizer, *, where: Tensor, scale: Tensor | float) -> None:
        if where:
            honest(optimizer, where=where, scale=scale)

    run = Run("none").captured()
    run.go(WARM_UP)
    monkeypatch.setattr(phases, "move", looking)
    with pytest.raises(HostRead, match="__bool__"):
        run.go(1)
