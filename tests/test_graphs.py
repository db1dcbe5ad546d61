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
from recording import HostRead, Recorder
from torch import Tensor
from training import ALL_POINTS, SMALL

from noisegan.core import losses, phases
from noisegan.core.config import TrainConfig, networks
from noisegan.core.distributed import World, join_world
from noisegan.core.graphs import CAPTURES, WARM_UP, Capture, CudaCapture, PhaseGraphs, use_graphs
from noisegan.core.images import to_float
from noisegan.core.loss_scale import GROWS_AFTER, LossScale
from noisegan.core.phases import PHASES, NonFiniteError, RealBatch, TrainingStep
from noisegan.core.rng import Streams
from noisegan.core.state import TrainState
from noisegan.manager import Plugins
from noisegan.planning import open_data

CPU = torch.device("cpu")
STEPS = 10
OFTEN = {"pl_interval": 2, "r1_interval": 2, "kimg": STEPS * SMALL["batch"] / 1000}


class Run:
    """Training steps on a few images, with graphs or without."""

    def __init__(self, noise: str, *files: Path, labels: int = 0, device: torch.device = CPU, **options: Any) -> None:
        config = TrainConfig(outdir="unused", noise=noise, **(SMALL | OFTEN | options)).resolve()
        self.data = open_data(config, silent=True)
        if labels:
            self.data._classes, self.data.c_dim = torch.arange(len(self.data)) % labels, labels
        arguments = networks(config, resolution=8, img_channels=1, c_dim=labels)
        strategies = Plugins([ALL_POINTS, *files], entry_points=False).parse(noise)
        self.state = TrainState(config, arguments, strategies, data="test", device=device)
        self.step = TrainingStep(self.state, config, self.data, Streams(1), World(0, 1, device))
        self.recorder = Recorder()
        self.device = device

    def captured(self, capture: Capture | None = None) -> Run:
        self.step.play = PhaseGraphs(self.step.phase, capture or self.recorder, list(self.state.injectors()))
        return self

    def go(self, steps: int = STEPS) -> list[dict[str, float]]:
        """Reports of as many steps."""
        reports = []
        for _ in range(steps):
            items = torch.arange(8) + 8 * self.state.step
            images, labels = to_float(self.data.images(items)), self.data.labels(items)
            reports.append(self.step.run(RealBatch(images.to(self.device), labels.to(self.device))))
        return reports


def assert_same_state(a: TrainState, b: TrainState) -> None:
    assert a.counters() == b.counters()
    left, right = a.tensors(), b.tensors()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].contiguous().numpy().tobytes() == right[name].contiguous().numpy().tobytes(), name


CASES: dict[str, dict[str, Any]] = {
    "additive": {"noise": "additive(strength=0.1)"},
    "fuzzy": {"noise": "fuzzy"},
    "all points": {"noise": "all_points"},
    "two players": {"noise": "filtering"},
    "schedules and penalties": {"noise": "instance + roth"},
    "labels": {"noise": "none", "labels": 3},
    "accumulation": {"noise": "additive", "batch_gpu": 4},
    "bfloat16": {"noise": "fuzzy", "precision": "bf16"},
    "float16": {"noise": "additive", "precision": "fp16"},
    "no style mixing": {"noise": "additive", "style_mixing": 0.0},
}
BUILT_IN: dict[str, dict[str, Any]] = {
    f"built-in {name}": {"noise": name, "pl_interval": 1, "r1_interval": 1}
    for name in (*sorted(Plugins(entry_points=False).strategies), "learned_metric(kind=pullback)")
}
EIGENVALUES = {"noise": "geodesic(manifold=spd_affine)", "pl_interval": 1, "r1_interval": 1}
"""On a GPU torch waits to know whether it has found them."""


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


EXPLODING = """
import torch
from noisegan.api import FeatureInjector, Params, StrategySpec, hookimpl

class Exploding(FeatureInjector):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.tensor(1.0))
        self.number = 1.0
    def set_progress(self, fraction):
        {statement}
    def draw(self, source):
        return source.normal(0)
    def forward(self, x, noise, w):
        return x * self.factor * self.number

@hookimpl
def register_strategies(register):
    register(StrategySpec(name="exploding", params=Params, summary="s", reference="r", identity_at_init=True,
                          feature=lambda site, p: Exploding()))
"""


CHANGES_ONCE = {
    "buffer": "self.factor = torch.tensor(1.1) if 0.65 < fraction < 0.75 else self.factor",
    "number": "self.number = 1.1 if fraction > 0.65 else 1.0",
    "tensor": "self.number = torch.tensor(1.1) if 0.65 < fraction < 0.75 else self.number",
}
CHANGES_ALWAYS = "self.number = 1 + 0.5 * fraction"


def test_a_replayed_phase_that_is_not_finite_leaves_no_trace(tmp_path: Path) -> None:
    file = tmp_path / "exploding.py"
    file.write_text(EXPLODING.format(statement='self.factor.fill_(float("nan") if fraction > 0.6 else 1.0)'))
    runs = [Run("exploding", file), Run("exploding", file).captured()]
    for run in runs:
        run.go(7)
        before = {name: tensor.clone() for name, tensor in run.state.tensors().items() if "factor" not in name}
        counters = run.state.counters()
        with pytest.raises(NonFiniteError, match="the loss of phase G is not finite"):
            run.go()
        assert run.state.counters() == counters
        for name, tensor in before.items():
            assert torch.equal(run.state.tensors()[name], tensor), name
    assert runs[1].recorder.replayed > 0
    assert_same_state(runs[0].state, runs[1].state)


def test_phases_after_one_that_failed_leave_no_trace_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its optimisers, averages and statistics wait for the resume, which begins at the phase that failed."""
    whole, broken = Run("all_points"), Run("all_points")
    whole.go(3)
    broken.go(2)
    honest, calls = losses.path_lengths, []

    def failing(*arguments: Any, **options: Any) -> Tensor:
        calls.append(1)
        return honest(*arguments, **options) * float("nan")

    with monkeypatch.context() as patch:
        patch.setattr(losses, "path_lengths", failing)
        with pytest.raises(NonFiniteError, match="the loss of phase PL is not finite"):
            broken.go(1)
    assert len(calls) == 1
    assert (broken.state.step, broken.state.phase) == (2, 1)
    broken.go(1)
    assert_same_state(whole.state, broken.state)


class Breaks(torch.autograd.Function):
    """The identity, whose gradient is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * float("inf")


def break_gradients(patch: pytest.MonkeyPatch) -> None:
    honest = losses.discriminator_loss
    patch.setattr(losses, "discriminator_loss", lambda *a: Breaks.apply(honest(*a)))  # type: ignore[no-untyped-call]


def test_a_gradient_that_is_not_finite_is_told_from_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("none")
    break_gradients(monkeypatch)
    before = {name: p.detach().clone() for name, p in run.state.D.named_parameters()}
    with pytest.raises(NonFiniteError, match="the gradient of phase D is not finite"):
        run.go(1)
    for name, p in run.state.D.named_parameters():
        assert torch.equal(p, before[name]), name


def test_float16_that_overflows_lowers_its_scale_until_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("none", precision="fp16", gamma=0.0, pl_weight=0.0)
    run.state.loss_scales["D"].factor.fill_(2.0)
    break_gradients(monkeypatch)
    before = {name: p.detach().clone() for name, p in run.state.D.named_parameters()}
    (report,) = run.go(1)
    assert set(report) == {"G"}
    assert float(run.state.loss_scales["D"].factor) == 1
    with pytest.raises(NonFiniteError, match="float16 overflows in phase D however small the loss scale"):
        run.go(1)
    for name, p in run.state.D.named_parameters():
        assert torch.equal(p, before[name]), name


def test_gradients_are_divided_by_the_scale_that_their_loss_had() -> None:
    """Also in the move with which the scale grows."""
    grows, stays = (Run("none", precision="fp16", gamma=0.0, pl_weight=0.0) for _ in range(2))
    for scale in grows.state.loss_scales.values():
        scale.moves.fill_(GROWS_AFTER - 1)
    assert grows.go(1) == stays.go(1)
    for scale, other in zip(grows.state.loss_scales.values(), stays.state.loss_scales.values(), strict=True):
        assert float(scale.factor) == 2 * float(other.factor)
    a, b = grows.state.tensors(), stays.state.tensors()
    assert any(name.endswith("exp_avg_sq") for name in a)
    for name in a:
        assert name.startswith("loss_scale_") or torch.equal(a[name], b[name]), name


def test_the_loss_scale_doubles_after_many_moves_without_overflow() -> None:
    scale, yes, no = LossScale(CPU), torch.tensor(True), torch.tensor(False)
    start = float(scale.factor)
    for _ in range(GROWS_AFTER - 1):
        scale.update(moved=yes, overflown=no)
    scale.update(moved=no, overflown=no)  # a phase after one that failed
    assert float(scale.factor) == start
    scale.update(moved=yes, overflown=no)
    assert (float(scale.factor), float(scale.moves)) == (2 * start, 0)
    scale.update(moved=yes, overflown=no)
    scale.update(moved=no, overflown=yes)
    assert (float(scale.factor), float(scale.moves)) == (start, 0)


# ------------------------------------------------------------------------------------------- the recorder bites


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


# ------------------------------------------------------------------------------------------------- PhaseGraphs


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
