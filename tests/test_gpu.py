"""What only a GPU can show: training agrees with the CPU, random bits are the same, phases can be captured."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from test_graphs import CASES, STEPS, Run
from test_train import plugins, stats, train

import noisegan
from noisegan.core.graphs import WARM_UP, CudaCapture, PhaseGraphs
from noisegan.core.phases import PHASES


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_as_a_cpu_does(tmp_path: Path, precision: str) -> None:
    cpu = train(tmp_path, noise="all_points")
    gpu = train(tmp_path, noise="all_points", device="cuda", precision=precision)
    for a, b in zip(stats(cpu), stats(gpu), strict=True):
        assert a["Loss/D/loss"]["mean"] == pytest.approx(b["Loss/D/loss"]["mean"], rel=0.05)
    assert (cpu / "pairing.json").read_bytes() == (gpu / "pairing.json").read_bytes()
    noisegan.train(resume=gpu, kimg=0.06, plugins=plugins(), quiet=True)


@pytest.mark.gpu
def test_the_integer_bits_are_the_same_on_a_gpu() -> None:
    from noisegan.ext import philox_bits, philox_normal

    ids = torch.arange(5)
    assert torch.equal(philox_bits((1, 2), 3, ids, 99), philox_bits((1, 2), 3, ids.cuda(), 99).cpu())
    assert torch.allclose(philox_normal((1, 2), 3, ids, 99), philox_normal((1, 2), 3, ids.cuda(), 99).cpu(), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_captured_phases_train_as_eager_ones_do(case: str, caplog: pytest.LogCaptureFixture) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    eager, captured = Run(**CASES[case], device=device), Run(**CASES[case], device=device)
    captured.captured(CudaCapture(device))
    with caplog.at_level(logging.WARNING, "noisegan"):
        reports = list(zip(eager.go(), captured.go(), strict=True))
    assert caplog.messages == []  # every phase was captured
    assert isinstance(captured.step.play, PhaseGraphs)
    assert set(captured.step.play._recorded) == set(PHASES)
    for step, (a, b) in enumerate(reports):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4), f"step {step}"
    a, b = eager.state.tensors(), captured.state.tensors()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_phases_never_wait_for_the_gpu(case: str) -> None:
    run = Run(**CASES[case], device=torch.device("cuda", torch.cuda.current_device()))
    run.go(WARM_UP)

    def watched(name: str, inputs: object) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            run.step.phase(name, inputs)  # type: ignore[arg-type]
        finally:
            torch.cuda.set_sync_debug_mode("default")

    run.step.play = watched
    run.go(STEPS - WARM_UP)


@pytest.mark.gpu
def test_a_run_from_graphs_is_the_run_without(tmp_path: Path) -> None:
    runs = [
        train(tmp_path / option, noise="fuzzy", device="cuda", graphs=option, kimg=0.16) for option in ("auto", "off")
    ]
    for a, b in zip(*map(stats, runs), strict=True):
        assert a["Loss/D/loss"]["mean"] == pytest.approx(b["Loss/D/loss"]["mean"], rel=0.02)
    assert (runs[0] / "pairing.json").read_bytes() == (runs[1] / "pairing.json").read_bytes()
