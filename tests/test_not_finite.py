"""Losses and gradients that are not finite: the phase leaves no trace, and float16 lowers the scale of its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from capturing import CPU, EXPLODING, Run, assert_same_state
from torch import Tensor

from noisegan.core import losses
from noisegan.core.loss_scale import GROWS_AFTER, LossScale
from noisegan.core.phases import NonFiniteError


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
