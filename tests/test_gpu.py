"""What only a GPU can show: training agrees with the CPU, random bits are the same, phases can be captured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from capturing import BUILT_IN, CASES, CHANGES_ALWAYS, CHANGES_ONCE, EIGENVALUES, EXPLODING, STEPS, Run
from test_train import plugins, stats, train

import noisegan
from noisegan.core.graphs import WARM_UP, CudaCapture, PhaseGraphs
from noisegan.core.phases import PHASES, RealBatch


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


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sums in every run of a convolution."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def captured_as_eager(noise: str, *files: Path, **options: Any) -> set[str]:
    """Trains with and without graphs, to the same end. Returns the phases that were captured."""
    device = torch.device("cuda", torch.cuda.current_device())
    eager, captured = (Run(noise, *files, **options, device=device) for _ in range(2))
    captured.captured(CudaCapture(device))
    for step, (a, b) in enumerate(zip(eager.go(), captured.go(), strict=True)):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4), f"step {step}"
    a, b = eager.state.tensors(), captured.state.tensors()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=1e-3, msg=lambda m, name=name: f"{name}: {m}")
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert isinstance(captured.step.play, PhaseGraphs)
    return set(captured.step.play._recorded)


@pytest.mark.gpu
@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("case", CASES | BUILT_IN)
def test_captured_phases_train_as_eager_ones_do(case: str, caplog: pytest.LogCaptureFixture) -> None:
    assert captured_as_eager(**(CASES | BUILT_IN)[case]) == set(PHASES)
    assert caplog.messages == []


@pytest.mark.gpu
@pytest.mark.usefixtures("steady")
def test_phases_that_cannot_be_captured_train_as_eager_ones_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each with one warning; R1, which does without the generator, is captured after them."""
    file = tmp_path / "exploding.py"
    file.write_text(EXPLODING.replace("self.factor *", "self.factor.item() *").format(statement="pass"))
    assert captured_as_eager("exploding", file) == {"R1"}
    assert [message.split()[2] for message in caplog.messages] == ["G", "D", "PL"]
    assert all("capturing" in message for message in caplog.messages)


@pytest.mark.gpu
@pytest.mark.usefixtures("steady")
def test_eigenvalues_train_as_eager_ones_do(caplog: pytest.LogCaptureFixture) -> None:
    """Whether this torch can capture them or not."""
    captured = captured_as_eager(**EIGENVALUES)
    assert captured | {message.split()[2] for message in caplog.messages} == set(PHASES)
    assert "R1" in captured


@pytest.mark.gpu
@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("statement", CHANGES_ONCE.values(), ids=CHANGES_ONCE)
def test_what_changes_otherwise_than_in_place_is_captured_again(
    statement: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "exploding.py"
    file.write_text(EXPLODING.format(statement=statement.replace("(1.1)", "(1.1, device='cuda')")))
    assert captured_as_eager("exploding", file) == set(PHASES)
    assert caplog.messages == []


@pytest.mark.gpu
@pytest.mark.usefixtures("steady")
def test_a_number_that_always_changes_is_the_end_of_capturing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "exploding.py"
    file.write_text(EXPLODING.format(statement=CHANGES_ALWAYS))
    assert captured_as_eager("exploding", file) == set()
    assert len(caplog.messages) == 1


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("case", CASES | BUILT_IN)
def test_phases_never_wait_for_the_gpu(case: str) -> None:
    run = Run(**(CASES | BUILT_IN)[case], device=torch.device("cuda", torch.cuda.current_device()))
    run.go(WARM_UP)

    def watched(name: str, inputs: RealBatch) -> None:
        try:
            torch.cuda.set_sync_debug_mode("error")
            run.step.phase(name, inputs)
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
