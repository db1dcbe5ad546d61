"""The benchmarks run, and what they compare computes the same. How fast anything is is not asserted."""

from __future__ import annotations

import io
import json
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from bench import ops, step
from bench.__main__ import main
from bench.floor import ConvolutionRecorder, bare
from bench.naive import naive, plain_state
from bench.worker import Candidate, Subject
from bench.worker import main as worker_main
from bench.workload import Workload
from click.testing import CliRunner

from noisegan import ext


class WorkerHere(AbstractContextManager["WorkerHere"]):
    """A worker that costs no process."""

    def __init__(self, candidate: Candidate) -> None:
        self.subject = Subject(candidate)

    def ready(self) -> str:
        return "here"

    def round(self) -> dict[str, float]:
        return self.subject.round()

    def __exit__(self, *_: object) -> None:
        pass


def test_command_writes_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "Worker", WorkerHere)
    path = tmp_path / "bench.json"
    words = "--sizes toy --precision fp32 --impl noisegan --threads 1 --rounds 1"
    parts = "--only step --only strategies --only generator --only invert --only bias_act"
    result = CliRunner().invoke(main, [*words.split(), *parts.split(), "--json", str(path)])
    assert result.exit_code == 0, result.output
    figures = json.loads(path.read_text())
    assert figures["facts"]["threads"] == 1
    assert figures["facts"]["backend"] in ("native", "reference")
    assert {row["op"] for row in figures["ops"]} == {"bias_act"}
    assert all(row["ratio"] > 0 for row in figures["invert"])
    assert len(figures["invert"]) == 1
    assert {(row["layout"], row["pass"]) for row in figures["ops"]} == {
        (layout, passes) for layout in ops.LAYOUTS for passes in ("fwd", "fwd+bwd")
    }
    (row,) = figures["step"]
    phases = sum(
        row[f"train/{name}_s"] * weight for name, weight in (("G", 1), ("D", 1), ("PL", 1 / 4), ("R1", 1 / 16))
    )
    assert phases < row["train_s"]
    assert all(
        0 < row[f"{what}_{floor}_share"] < 1.5 for what in ("train", "sample") for floor in ("floor", "own_floor")
    )
    assert [(row["strategy"], "train_overhead" in row) for row in figures["strategies"]] == [
        (name, True) for name in step.STRATEGIES
    ]
    assert figures["generator"][0]["strategy"] == "none"
    assert figures["generator"][0]["to_none"] == 1
    assert {"additive", "fuzzy", "additive(placement=pre-conv)"} <= {row["strategy"] for row in figures["generator"]}
    assert "noise_bias_act" not in result.output
    assert "training step" in result.output


def test_every_operation_equals_its_plain_form() -> None:
    """Values are compared by `_calls`, gradients here."""
    for name, op in ops.OPS.items():
        for layout in ops.LAYOUTS:
            ours, plain = ops._calls(op, (2, 3, 4, 4), "fp32", layout, backward=True)
            for a, b in zip(ours(), plain(), strict=True):  # type: ignore[call-overload]
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_naive_implementation_trains_the_same(precision: str) -> None:
    """All four losses of two steps, on the same random numbers."""
    _, expected = Workload("toy", precision=precision, strategy="additive(strength=0.1)").train()
    with naive(own_noise=False):
        work = Workload("toy", precision=precision, strategy="additive(strength=0.1)", prepare=plain_state)
        _, losses = work.train()
    assert losses.keys() == {"G", "PL", "D", "R1"}
    assert losses == pytest.approx(expected, rel=1e-4 if precision == "fp32" else 6e-2)


def test_the_floor_is_every_convolution_and_nothing_else() -> None:
    recorder = ConvolutionRecorder()
    x = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    weight, taps = torch.randn(6, 4, 3, 3).requires_grad_(), torch.randn(6, 1, 4, 4)
    with recorder:
        recorder.phase = "one"
        y = torch.nn.functional.conv2d(x, weight, padding=1)
        torch.nn.functional.conv2d(y * 2, taps, groups=6).sum()  # a resampling filter is no convolution of the network
        recorder.phase = "two"
        y.sum().backward()
    assert [str(func) for func, *_ in recorder.calls["one"]] == ["aten.convolution.default"]
    ((func, args, _),) = recorder.calls["two"]
    assert str(func) == "aten.convolution_backward.default"
    assert args[1].is_contiguous(memory_format=torch.channels_last)
    with ConvolutionRecorder() as again:
        bare(recorder.calls["two"], "cpu", torchs=True)()
    assert [str(func) for func, *_ in again.calls[""]] == ["aten.convolution_backward.default"]


@pytest.mark.parametrize("torchs", [True, False])
def test_the_floor_is_run_by_torch_or_as_noisegan_does(torchs: bool) -> None:
    recorder = ConvolutionRecorder()
    x, weight = torch.randn(2, 4, 8, 8).requires_grad_(), torch.randn(6, 4, 3, 3).requires_grad_()
    with recorder:
        ext.conv2d(x, weight, padding=1).sum().backward()
    names = ["convolution", "convolution_input", "convolution_weight"]
    assert [str(func) for func, *_ in recorder.calls[""]] == [f"noisegan.{name}.default" for name in names]
    with ConvolutionRecorder() as again:
        bare(recorder.calls[""], "cpu", torchs=torchs)()
    torch_names = ["convolution", "convolution_backward", "convolution_backward"]
    expected = [f"aten.{name}.default" for name in torch_names] if torchs else [str(f) for f, *_ in recorder.calls[""]]
    assert [str(func) for func, *_ in again.calls[""]] == expected


def test_a_worker_answers_a_line_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    worker_main(json.dumps(asdict(Candidate("toy", impl="naive", strategy="fuzzy", threads=1))))
    ready, *rounds = map(json.loads, capsys.readouterr().out.splitlines())
    assert ready.keys() == {"backend"}
    assert len(rounds) == 2
    assert all(times["train"] > 0 and times["sample"] > 0 for times in rounds)
