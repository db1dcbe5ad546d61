"""Phases as graphs, with a recorder on the CPU in the place of CUDA's: replayed steps give the bits of eager ones."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from capturing import (
    BUILT_IN,
    CASES,
    CHANGES_ALWAYS,
    CHANGES_ONCE,
    CPU,
    EIGENVALUES,
    EXPLODING,
    STEPS,
    Run,
    assert_same_state,
)
from recording import HostRead, Recorder

from noisegan.core.distributed import World, join_world
from noisegan.core.graphs import CAPTURES, WARM_UP, CudaCapture, PhaseGraphs, use_graphs
from noisegan.core.phases import PHASES, RealBatch


@pytest.mark.parametrize("case", CASES)
def test_a_replayed_step_has_the_bits_of_an_eager_one(case: str) -> None:
    eager, captured = Run(**CASES[case]), Run(**CASES[case]).captured()
    assert eager.go() == captured.go()
    assert_same_state(eager.state, captured.state)
    recorder = captured.recorder
    assert recorder.recorded == len(PHASES)
    assert recorder.replayed == 2 * (STEPS - WARM_UP - 1) + 2 * (STEPS // 2 - WARM_UP - 1)
    assert {"noisegan::philox", "noisegan::bias_act", "aten::_fused_adam_"} <= recorder.operations


@pytest.mark.parametrize("case", BUILT_IN)
def test_every_built_in_strategy_can_be_captured(case: str) -> None:
    eager, captured = Run(**BUILT_IN[case]), Run(**BUILT_IN[case]).captured()
    assert eager.go(WARM_UP + 2) == captured.go(WARM_UP + 2)
    assert_same_state(eager.state, captured.state)
    assert (captured.recorder.recorded, captured.recorder.replayed) == (len(PHASES), len(PHASES))


def test_eigenvalues_cannot_be_captured() -> None:
    run = Run(**EIGENVALUES).captured()
    run.go(WARM_UP)
    with pytest.raises(HostRead, match="eigh"):
        run.go(1)


def test_statistics_that_are_reported_in_between_start_anew() -> None:
    eager, captured = Run("fuzzy"), Run("fuzzy").captured()
    for run in (eager, captured):
        for _ in range(3):
            run.go(4)
            run.state.statistics.clear()
        run.go(2)
    assert set(captured.state.statistics.state()) > {"Loss/G/loss", "Loss/r1_penalty", "Loss/pl_penalty"}
    assert_same_state(eager.state, captured.state)


def test_work_that_cannot_be_recorded_is_done_without_a_graph(caplog: pytest.LogCaptureFixture) -> None:
    class Refuses(Recorder):
        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            raise RuntimeError("operation not permitted when stream is capturing")

    eager, run = Run("additive"), Run("additive")
    run.recorder = Refuses()
    run.captured()
    with caplog.at_level(logging.WARNING, "noisegan"):
        assert run.go(8) == eager.go(8)
    assert_same_state(eager.state, run.state)
    assert caplog.messages == [
        f"noisegan: phase {name} runs without a CUDA graph (--graphs off accepts that): "
        "operation not permitted when stream is capturing"
        for name in ("G", "D", "PL", "R1")
    ]


@pytest.mark.parametrize("statement", CHANGES_ONCE.values(), ids=CHANGES_ONCE)
def test_what_changes_otherwise_than_in_place_is_captured_again(statement: str, tmp_path: Path) -> None:
    """Against the contract, which wants buffers changed in place, but no reason for wrong results."""
    file = tmp_path / "exploding.py"
    file.write_text(EXPLODING.format(statement=statement))
    eager, captured = Run("exploding", file), Run("exploding", file).captured()
    assert eager.go() == captured.go()
    assert_same_state(eager.state, captured.state)
    assert captured.recorder.recorded == 2 * len(PHASES)
    assert captured.recorder.replayed > 0


def test_a_number_that_always_changes_is_the_end_of_capturing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "exploding.py"
    file.write_text(EXPLODING.format(statement=CHANGES_ALWAYS))
    eager, captured = Run("exploding", file), Run("exploding", file).captured()
    with caplog.at_level(logging.WARNING, "noisegan"):
        assert eager.go() == captured.go()
    assert_same_state(eager.state, captured.state)
    assert (captured.recorder.recorded, captured.recorder.replayed) == (CAPTURES * 2, 0)  # G and D
    assert caplog.messages == [
        "noisegan: phases run without CUDA graphs (--graphs off accepts that), as they would go on with old values of "
        "Exploding.number; register a buffer and change it in place"
    ]


def test_a_capture_that_fails_says_why_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With torch's capture played: it fails to end, too, with an error of its own, and its stream stays the current."""
    current, pools, ended = ["usual"], itertools.count(), []

    class Stream(contextlib.AbstractContextManager[None]):
        device_index = 0

        def __init__(self, *_: Any, **options: Any) -> None:
            self.captures = "pool" in options

        def __enter__(self) -> None:
            self.before, current[:] = current[0], ["capturing" if self.captures else "other"]

        def __exit__(self, error: Any, *_: Any) -> None:
            if self.captures and error:
                raise RuntimeError("operation failed due to a previous error during capture")
            current[:] = [self.before]

        def wait_stream(self, other: Any) -> None:
            pass

    def end(*pool: Any) -> None:
        ended.append(pool)
        raise RuntimeError("not currently recording")

    for name in ("Stream", "stream", "current_stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, Stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, next(pools)))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: played.append("graph")))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    played: list[str] = []

    def phase(name: str, inputs: RealBatch) -> None:
        if name == "G" and current == ["capturing"]:
            raise RuntimeError("operation not permitted when stream is capturing\nFor debugging consider ...")
        played.append(current[0])

    capture = CudaCapture(CPU)
    graphs, inputs = PhaseGraphs(phase, capture, []), RealBatch(torch.zeros(1), torch.zeros(1))
    for name in ("G", "D"):
        for _ in range(WARM_UP + 2):
            graphs(name, inputs)
    assert played == ["other"] * 3 + ["usual"] * 2 + ["other"] * 3 + ["capturing"] + ["graph"] * 2
    assert (ended, capture._pool) == ([(0, (0, 0))], (0, 1))
    assert caplog.messages == [
        "noisegan: phase G runs without a CUDA graph (--graphs off accepts that): "
        "operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize(("device", "chosen"), [("cuda:1", [1]), ("cuda", []), ("cpu", [])])
def test_one_process_works_on_the_gpu_it_was_told(
    device: str, chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int | None] = []
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: found.append(device.index))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert join_world(device) == World(0, 1, torch.device(device))
    assert found == chosen


@pytest.mark.parametrize(
    ("option", "device", "size", "expected"),
    [
        ("auto", "cuda", 1, True),
        ("auto", "cuda:1", 1, True),
        ("auto", "cuda", 2, False),
        ("auto", "cpu", 1, False),
        ("auto", "mps", 1, False),
        ("off", "cuda", 1, False),
    ],
)
def test_graphs_are_for_a_gpu_that_trains_alone(option: str, device: str, size: int, expected: bool) -> None:
    assert use_graphs(option, World(0, size, torch.device(device))) is expected
