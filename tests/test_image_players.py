"""Whose loss an image injector's parameters lower: with G, with D, against D, and what they pay for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toys import ToyOpposedImage, toy
from training import SMALL

from noisegan.api import Strategy, StrategySpec
from noisegan.core.config import TrainConfig, networks
from noisegan.core.data import open_dataset
from noisegan.core.distributed import World
from noisegan.core.images import to_float
from noisegan.core.opposition import call_opposed
from noisegan.core.phases import RealBatch, TrainingStep
from noisegan.core.rng import Streams
from noisegan.core.state import TrainState

CPU = torch.device("cpu")
DATA = open_dataset("digits", resolution=8)
REAL = RealBatch(to_float(DATA.images(range(8))), DATA.labels(range(8)))


class WithD(ToyOpposedImage):
    trains_with = "D"


class WithG(ToyOpposedImage):
    trains_with = "G"


class Free(ToyOpposedImage):
    def penalty(self, images: Tensor, noise: Tensor) -> None:
        return None


def runner(kind: type[ToyOpposedImage], **options: Any) -> TrainingStep:
    config = TrainConfig(outdir="", **SMALL | options).resolve()
    spec: StrategySpec[Any] = toy(image=lambda site, p: kind(site))
    arguments = networks(config, resolution=8, img_channels=1, c_dim=0)
    state = TrainState(config, arguments, [Strategy(spec, spec.params())], data="", device=CPU)
    return TrainingStep(state, config, DATA, Streams(1), World(0, 1, CPU))


def gradients(step: TrainingStep, phase: str) -> dict[str, Tensor | None]:
    """Gradients that a phase leaves, of D and of the injector, before any optimiser has moved."""
    step.phase(phase, REAL)
    named = {f"D.{name}": p for name, p in step.state.D.named_parameters()}
    named["learned"] = step.state.image["toy"].learned  # type: ignore[assignment]
    return {name: None if p.grad is None else p.grad.clone() for name, p in named.items()}


def price(step: TrainingStep) -> Tensor:
    """Gradient of the mean penalty in `learned`, from the noise that the phase of D saw."""
    learned = torch.zeros(1, 1, 1, requires_grad=True)
    draws = [step._source(f"image_noise/toy/D/{kind}", torch.arange(8)).normal(1, 8, 8) for kind in ("real", "fake")]
    power = sum((torch.nn.functional.softplus(learned) * e).square().mean() for e in draws) / 2
    assert isinstance(power, Tensor)
    (gradient,) = torch.autograd.grad(power, learned)
    return gradient


def test_against_d_is_the_opposite_of_with_d_but_for_the_price() -> None:
    with_d, against, free = (gradients(runner(kind), "D") for kind in (WithD, ToyOpposedImage, Free))
    paid = price(runner(Free))
    assert paid.abs().max() > 0.1
    for name, gradient in with_d.items():  # D itself does not notice
        if name != "learned":
            assert gradient is not None
            torch.testing.assert_close(gradient, against[name], rtol=0, atol=0)
    assert with_d["learned"] is not None
    assert against["learned"] is not None
    assert free["learned"] is not None
    assert free["learned"].abs().max() > 1e-5
    torch.testing.assert_close(against["learned"], free["learned"] + paid)
    torch.testing.assert_close(with_d["learned"], paid - free["learned"])


@pytest.mark.parametrize(
    ("kind", "trained"),
    [(ToyOpposedImage, ["D"]), (WithD, ["D", "R1"]), (WithG, ["G"])],
)
def test_each_phase_trains_its_own_players_only(kind: type[ToyOpposedImage], trained: list[str]) -> None:
    for phase in ("G", "PL", "D", "R1"):
        step = runner(kind)
        before = step.state.image["toy"].learned.detach().clone()  # type: ignore[operator]
        gradient = gradients(step, phase)["learned"]
        moved = not torch.equal(before, step.state.image["toy"].learned.detach())  # type: ignore[arg-type, operator]
        assert (gradient is not None) == moved == (phase in trained), phase


def test_splitting_the_batch_changes_the_gradient_by_rounding_only() -> None:
    whole, split = gradients(runner(ToyOpposedImage), "D"), gradients(runner(ToyOpposedImage, batch_gpu=4), "D")
    torch.testing.assert_close(whole["learned"], split["learned"], rtol=1e-4, atol=1e-6)


def test_the_price_is_reported() -> None:
    step = runner(ToyOpposedImage)
    losses = step.run(REAL)
    assert "Loss/image/toy" in step.state.statistics.names()
    assert set(losses) == {"G", "PL", "D", "R1"}


def test_an_opposed_call_has_the_same_value_and_turns_gradients_of_parameters_only() -> None:
    module = ToyOpposedImage(type("Site", (), {"channels": 2, "resolution": 3})).double()
    images = torch.linspace(-1, 1, 36, dtype=torch.float64).view(2, 2, 3, 3).requires_grad_()
    noise = torch.linspace(2, -3, 36, dtype=torch.float64).view(2, 2, 3, 3)
    plain, opposed = module(images, noise), call_opposed(module, images, noise)
    assert torch.equal(plain, opposed)
    a = torch.autograd.grad(plain.pow(3).sum(), (images, module.learned), create_graph=True)
    b = torch.autograd.grad(opposed.pow(3).sum(), (images, module.learned), create_graph=True)
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], -b[1])
    (second,) = torch.autograd.grad(b[0].square().sum(), module.learned)
    (expected,) = torch.autograd.grad(a[0].square().sum(), module.learned)
    torch.testing.assert_close(second, -expected)
