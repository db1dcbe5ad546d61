"""One broken strategy or more for every check: proof that the check bites.

Each is a toy of `toys.py` with one fault. `MUTANTS` says which check must catch it and what the report must mention.
Over 400 lines, as the list is meant to be read against the list of checks in one go.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor, nn
from toys import (
    ToyFeature,
    ToyImage,
    ToyLatent,
    ToyLearnedImage,
    ToyLookAhead,
    ToyOpposedImage,
    ToyPenalty,
    squared_gradient,
    toy,
)

from noisegan.api import Ahead, Field, NoiseSource, Params, StrategySpec


class Mutant(NamedTuple):
    check: str
    fault: str
    spec: StrategySpec[Any]
    report: str
    """Part of the sentence that the check must report."""


MUTANTS: list[Mutant] = []


def breaks(check: str, report: str, point: str = "feature") -> Any:
    """Class decorator: an injector with one fault."""

    def enter(cls: Any) -> Any:
        factory = (lambda p: cls()) if point == "penalty" else (lambda site, p: cls(site))
        MUTANTS.append(Mutant(check, cls.__name__, toy(**{point: factory}), report))
        return cls

    return enter


def add(check: str, fault: str, report: str, **arguments: Any) -> None:
    """A strategy whose spec is at fault."""
    arguments = arguments if set(arguments) - {"params", "identity"} else {**arguments, "feature": _toy_feature}
    MUTANTS.append(Mutant(check, fault, toy(**arguments), report))


def _toy_feature(site: Any, params: Any) -> ToyFeature:
    return ToyFeature(site)


# --- what a strategy says about itself

add("builds", "WrongClass", "expected a FeatureInjector", feature=lambda site, p: nn.Identity())
add("builds", "FactoryRaises", "raised KeyError", feature=lambda site, p: {}[site.name])
_SHARED = ToyLatent(type("Site", (), {"w_dim": 6}))
add("builds", "SameObject", "the same injector twice", latent=lambda site, p: _SHARED)


class Thawed(Params):
    model_config = ConfigDict(frozen=False)


class Lenient(Params):
    model_config = ConfigDict(extra="ignore")


class NoHelp(Params):
    size: int = 3


class BadDefault(Params):
    size: float = Field(2.0, le=1, description="size")


class Doubling(Params):
    size: str = Field("a", description="its text is not what it was made from")

    def model_post_init(self, context: Any) -> None:
        object.__setattr__(self, "size", self.size + "a")


add("schema_is_sound", "Thawed", "not frozen", params=Thawed)
add("schema_is_sound", "Lenient", "unknown keys", params=Lenient)
add("schema_is_sound", "NoHelp", "size has no help", params=NoHelp)
add("schema_is_sound", "BadDefault", "default size=2.0 is refused", params=BadDefault)
add("params_survive_text", "Doubling", "come back from JSON", params=Doubling)
add("identity_is_told_truly", "ClaimsIdentity", "is True, but default parameters change the feature", identity=True)


@breaks("identity_is_told_truly", "is False, but")
class HidesIdentity(ToyFeature):
    def __init__(self, site: Any) -> None:
        super().__init__(site)
        nn.init.zeros_(self.strength)


@breaks("says_who_trains_it", "'none' with 1 parameters", "image")
class Untrained(ToyLearnedImage):
    trains_with = "none"


@breaks("says_who_trains_it", "'G' with 0 parameters", "image")
class TrainsNothing(ToyImage):
    trains_with = "G"


@breaks("says_who_trains_it", "'E', expected", "image")
class TrainsWithNobody(ToyLearnedImage):
    trains_with = "E"  # type: ignore[assignment]


@breaks("parameters_are_floats", "not finite")
class StartsInfinite(ToyFeature):
    def __init__(self, site: Any) -> None:
        super().__init__(site)
        nn.init.constant_(self.strength, float("inf"))


@breaks("parameters_are_floats", "does not require a gradient")
class FrozenParameter(ToyFeature):
    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.strength.requires_grad_(False)


# --- draw


@breaks("draw_returns_noise", "expected [3, ...]")
class ForgetsTheBatch(ToyFeature):
    def draw(self, source: NoiseSource) -> Tensor:
        return super().draw(source)[0]


@breaks("draw_returns_noise", "requires a gradient")
class DrawsTheStrength(ToyFeature):
    def draw(self, source: NoiseSource) -> Tensor:
        return super().draw(source) * self.strength


@breaks("draw_returns_noise", "expected floating point")
class DrawsIntegers(ToyFeature):
    def draw(self, source: NoiseSource) -> Tensor:
        return super().draw(source).round().long()


@breaks("draw_returns_noise", "not finite")
class DrawsInfinity(ToyFeature):
    def draw(self, source: NoiseSource) -> Tensor:
        return super().draw(source) / 0


@breaks("draw_returns_noise", "on meta")
class DrawsElsewhere(ToyFeature):
    def draw(self, source: NoiseSource) -> Tensor:
        return super().draw(source).to("meta")


@breaks("draw_uses_its_source_only", "two draws from the same source differ")
class DrawsFromTorch(ToyFeature):
    def draw(self, source: NoiseSource) -> Tensor:
        return torch.randn_like(super().draw(source))


@breaks("draw_is_per_sample", "differs from its noise alone")
class CentresOverTheBatch(ToyFeature):
    def draw(self, source: NoiseSource) -> Tensor:
        noise = super().draw(source)
        return noise - noise.mean(dim=0)


@breaks("leaves_global_randomness", "draw changed")
class DrawsFromNumpy(ToyFeature):
    def draw(self, source: NoiseSource) -> Tensor:
        return super().draw(source) * float(np.random.rand() > -1)  # noqa: NPY002


@breaks("leaves_global_randomness", "construction changed")
class BuiltWithRandom(ToyFeature):
    def __init__(self, site: Any) -> None:
        super().__init__(site)
        random.random()


@breaks("leaves_global_randomness", "forward changed")
class RandomInForward(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        torch.rand(1)
        return super().forward(x, noise, w)


@breaks("starts_the_same", "strength starts differently")
class StartsAtRandom(ToyFeature):
    def __init__(self, site: Any) -> None:
        super().__init__(site)
        nn.init.constant_(self.strength, random.random())


@breaks("works_with_noise_off", "is not finite")
class NormalisesNoise(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return super().forward(x, noise / noise.square().mean(dim=(1, 2, 3), keepdim=True).sqrt(), w)


@breaks("regularises_per_sample", "do not mix samples in regularise")
class RegularisesTheBatch(ToyFeature):
    def regularise(self, noise: Tensor) -> Tensor | None:
        return noise.square().mean().expand(len(noise))


@breaks("regularises_per_sample", "expected [3]: one per sample")
class RegularisesToAScalar(ToyFeature):
    def regularise(self, noise: Tensor) -> Tensor | None:
        return noise.square().mean()


@breaks("regularises_per_sample", "do not mix samples in it")
class RenormalisesTheBatch(ToyFeature):
    def renormalise(self, noise: Tensor) -> Tensor | None:
        return noise / noise.std()


@breaks("noise_matters", "draws give the same output")
class IgnoresNoise(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + self.strength


@breaks("noise_matters", "draws give the same output", "latent")
class IgnoresLatentNoise(ToyLatent):
    def forward(self, w: Tensor, noise: Tensor) -> Tensor:
        return w + self.affine(torch.ones_like(noise))


# --- forward


@breaks("forward_keeps_shape_and_dtype", "expected [3, 3, 4, 4]")
class AddsAChannel(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return torch.cat((super().forward(x, noise, w), noise), dim=1)


@breaks("forward_keeps_shape_and_dtype", "torch.bfloat16 returned torch.float32")
class PromotesToFloat(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return super().forward(x.to(torch.promote_types(x.dtype, torch.float32)), noise, w)


@breaks("forward_keeps_shape_and_dtype", "float64 raised RuntimeError", "latent")
class ConvertsToFloat(ToyLatent):
    def forward(self, w: Tensor, noise: Tensor) -> Tensor:
        return w + self.affine(noise.float())


@breaks("forward_is_repeatable", "in training mode")
class DropsOut(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return super().forward(x, F.dropout(noise, training=self.training), w)


@breaks("forward_changes_nothing", "modified its argument x")
class AddsInPlace(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x.add_((self.strength * self.fade * noise).detach())


@breaks("forward_changes_nothing", "forward changed fade")
class CountsInForward(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        self.fade.mul_(0.9)
        return super().forward(x, noise, w)


@breaks("forward_is_per_sample", "another sample 1 changes")
class NormalisesOverTheBatch(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return super().forward(x - x.mean(dim=0), noise, w)


@breaks("forward_is_per_sample", "in another order")
class WeighsByPosition(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return super().forward(x, noise * torch.arange(1, len(x) + 1).view(-1, 1, 1, 1), w)


@breaks("forward_keeps_shape_and_dtype", "forward in torch.bfloat16 raised")
class MixesWithWhatFollows(ToyLookAhead):
    """In a block of 16 bits the maps are narrow and the weights are not."""

    def forward(self, x: Tensor, noise: Tensor, w: Tensor, ahead: Ahead) -> Tensor:
        rows = ahead.readers[0].weight[..., 0, 0]  # [O, C]
        return super().forward(torch.einsum("oc,od,ndhw->nchw", rows, rows, x), noise, w, ahead)


@breaks("forward_is_per_sample", "another sample 1 changes")
class HearsTheWholeBatch(ToyLookAhead):
    def heard(self, ahead: Ahead) -> Tensor:
        return super().heard(ahead).mean(dim=0, keepdim=True)


@breaks("added_is_what_forward_adds", "forward gives another output than x plus the products of added")
class AddsWithoutFade(ToyFeature):
    """Right as long as nothing has faded: the buffer is forgotten, and halved here to show it."""

    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.fade.fill_(0.5)

    def added(self, noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(noise, self.strength)]


@breaks("added_is_what_forward_adds", "forward gives another output than x plus the products of added")
class AddsNothingItSays(ToyFeature):
    def added(self, noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        return []


@breaks("forward_is_one_graph", "cannot trace forward into one graph")
class BranchesOnValues(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return super().forward(x, noise, w) if noise.abs().max() > 0 else x


# --- gradients


@breaks("gradients_are_right", "the gradient of forward differs")
class DetachesTheGate(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        gate = torch.sigmoid(w.detach().sum(dim=1)).view(-1, 1, 1, 1)
        return super().forward(x, gate * noise, w)


@breaks("gradients_are_right", "the gradient of forward differs")
class DetachesWhatFollows(ToyLookAhead):
    def heard(self, ahead: Ahead) -> Tensor:
        return super().heard(ahead).detach()


class _SquareOnce(torch.autograd.Function):
    """x^2 with the right gradient, but one that is a constant to the second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * 2 * x.detach()


@breaks("second_gradients_are_right", "the second gradient of forward differs")
class OnceDifferentiable(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + _SquareOnce.apply(self.strength) * noise  # type: ignore[no-untyped-call]


@breaks("no_parameter_is_dead", "no gradient reaches spare")
class SpareParameter(ToyFeature):
    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.spare = nn.Parameter(torch.zeros(2))


@breaks("no_parameter_is_dead", "gradient of strength is not finite")
class InfiniteSlope(ToyFeature):
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + (self.strength * 0).sqrt() * noise + self.strength * noise


@breaks("training_can_leave_the_start", "training cannot move them")
class ProductOfZeros(ToyFeature):
    def __init__(self, site: Any) -> None:
        super().__init__(site)
        nn.init.zeros_(self.strength)
        self.second = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + self.strength * self.second * noise


# --- state


@breaks("state_round_trips", "the loaded state_dict gives another output")
class ForgetsProgress(ToyFeature):
    share = 0.0

    def set_progress(self, fraction: float) -> None:
        self.share = fraction

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + self.strength * (1 - self.share) * noise


@breaks("copies_are_independent", "copy.deepcopy raised")
class KeepsATensor(ToyFeature):
    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.doubled = self.strength * 2


@breaks("copies_are_independent", "does not follow its own parameters")
class KeepsAFunction(ToyFeature):
    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.gain = lambda: self.strength

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + self.gain() * noise


@breaks("progress_moves_buffers_only", "changed parameter strength")
class AnnealsAParameter(ToyFeature):
    def set_progress(self, fraction: float) -> None:
        with torch.no_grad():
            self.strength.mul_(1 - fraction)


@breaks("progress_moves_buffers_only", "not finite after set_progress(1.0)")
class DividesByTheRest(ToyFeature):
    def set_progress(self, fraction: float) -> None:
        self.fade.fill_(float("inf") if fraction == 1 else 1 / (1 - fraction))


@breaks("progress_keeps_to_its_buffers", "changed or replaced factor, of which a CUDA graph")
class KeepsANumber(ToyFeature):
    def set_progress(self, fraction: float) -> None:
        self.factor = 1 + 0.5 * fraction


@breaks("progress_keeps_to_its_buffers", "set_progress(0.5) changed or replaced shares")
class KeepsAList(ToyFeature):
    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.shares: list[float] = []

    def set_progress(self, fraction: float) -> None:
        self.shares.append(fraction)


@breaks("progress_keeps_to_its_buffers", "set_progress(0.5) changed or replaced fade")
class ReplacesABuffer(ToyFeature):
    def set_progress(self, fraction: float) -> None:
        self.fade = torch.tensor(1 - fraction / 2)


@breaks("progress_keeps_to_its_buffers", "changed or replaced part.p")
class ChangesAPart(ToyFeature):
    """The number lies in a module within."""

    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.part = nn.Dropout(0.0)

    def set_progress(self, fraction: float) -> None:
        self.part.p = fraction / 2


# --- penalties


@breaks("penalty_is_a_scalar", "shape [3]", "penalty")
class PerSamplePenalty(ToyPenalty):
    def forward(self, discriminate: Any, real: Tensor, fake: Tensor) -> Tensor:
        return squared_gradient(discriminate, real)


@breaks("penalty_is_a_scalar", "expected 0 or more", "penalty")
class NegativePenalty(ToyPenalty):
    def forward(self, discriminate: Any, real: Tensor, fake: Tensor) -> Tensor:
        return -super().forward(discriminate, real, fake)


@breaks("penalty_is_a_mean", "for the same samples twice", "penalty")
class SummedPenalty(ToyPenalty):
    def forward(self, discriminate: Any, real: Tensor, fake: Tensor) -> Tensor:
        return squared_gradient(discriminate, real).sum()


@breaks("penalty_trains_the_discriminator", "carries no gradient", "penalty")
class NoGraph(ToyPenalty):
    def forward(self, discriminate: Any, real: Tensor, fake: Tensor) -> Tensor:
        return squared_gradient(discriminate, real, create_graph=False).mean()


@breaks("penalty_trains_the_discriminator", "differs from finite differences", "penalty")
class HalfDetached(ToyPenalty):
    def forward(self, discriminate: Any, real: Tensor, fake: Tensor) -> Tensor:
        return (squared_gradient(discriminate, real) * torch.sigmoid(discriminate(real)).detach()[:, 0]).mean()


@breaks("penalty_touches_nothing", "switched on the gradient of real", "penalty")
class SwitchesGradientOn(ToyPenalty):
    def forward(self, discriminate: Any, real: Tensor, fake: Tensor) -> Tensor:
        real.requires_grad_()
        return super().forward(discriminate, real, fake)


@breaks("penalty_touches_nothing", "left gradients on the discriminator", "penalty")
class CallsBackward(ToyPenalty):
    def forward(self, discriminate: Any, real: Tensor, fake: Tensor) -> Tensor:
        discriminate(real).sum().backward()
        return super().forward(discriminate, real, fake)


@breaks("penalty_touches_nothing", "may not have parameters", "penalty")
class LearnedPenalty(ToyPenalty):
    def __init__(self) -> None:
        super().__init__()
        self.learned = nn.Parameter(torch.ones(()))


# --- what an image injector's parameters lower besides


@breaks("image_penalty_is_per_sample", "has shape []", "image")
class MeanPower(ToyOpposedImage):
    def penalty(self, images: Tensor, noise: Tensor) -> Tensor:
        return super().penalty(images, noise).mean()


@breaks("image_penalty_is_per_sample", "expected 0 or more", "image")
class RewardedPower(ToyOpposedImage):
    def penalty(self, images: Tensor, noise: Tensor) -> Tensor:
        return -super().penalty(images, noise)


@breaks("image_penalty_is_per_sample", "depends on other samples", "image")
class SharedPower(ToyOpposedImage):
    def penalty(self, images: Tensor, noise: Tensor) -> Tensor:
        power = super().penalty(images, noise)
        return power.mean().expand_as(power)


@breaks("image_penalty_trains_it", "trains_with is 'none'", "image")
class PenaltyOfNobody(ToyImage):
    def penalty(self, images: Tensor, noise: Tensor) -> Tensor:
        return noise.square().flatten(1).mean(dim=1)


@breaks("image_penalty_trains_it", "no gradient", "image")
class PenaltyOfTheNoise(ToyOpposedImage):
    def penalty(self, images: Tensor, noise: Tensor) -> Tensor:
        return noise.square().flatten(1).mean(dim=1)


@breaks("image_penalty_trains_it", "differs from finite differences", "image")
class HalfDetachedPower(ToyOpposedImage):
    def penalty(self, images: Tensor, noise: Tensor) -> Tensor:
        power = super().penalty(images, noise)
        return power * power.detach()


# --- in a whole generator


@breaks("works_in_a_generator", "must use the noise it is handed")
class IgnoresGivenNoise(ToyFeature):
    """Keeps what it drew and uses that."""

    def draw(self, source: NoiseSource) -> Tensor:
        self.drawn = super().draw(source)
        return self.drawn

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return super().forward(x, getattr(self, "drawn", noise).to(x.dtype), w)
