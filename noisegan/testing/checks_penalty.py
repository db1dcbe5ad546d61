"""Checks of penalties: a mean over samples that trains the discriminator and touches nothing else; and of what an
image injector's parameters lower besides."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.func import functional_call

from noisegan.api import ImageInjector
from noisegan.testing.places import IDS, Place, global_seed
from noisegan.testing.registry import Broken, check, close, require, where

PENALTY = ("penalty",)
IMAGE = ("image",)


@check("place", PENALTY)
def penalty_is_a_scalar(place: Place) -> None:
    """A penalty is one finite number, not negative, in the dtype of the images."""
    for dtype in (torch.float32, torch.float64):
        injector = place.build().to(dtype)
        with where("forward"):
            value = place.call(injector, place.inputs(injector, dtype=dtype))
        require(value.shape == (), f"the penalty has shape {list(value.shape)}, expected a scalar")
        require(value.dtype == dtype, f"the penalty is {value.dtype}, expected {dtype}")
        require(bool(value.isfinite()), f"the penalty is {value.item()}, expected a finite number")
        require(bool(value >= 0), f"the penalty is {value.item()}, expected 0 or more")


@check("place", PENALTY)
def penalty_is_a_mean(place: Place) -> None:
    """The penalty is averaged over samples: the same samples twice, in another order, give the same value."""
    injector = place.build().double()
    inputs = place.inputs(injector, dtype=torch.float64)
    order = [2, 0, 1, 1, 2, 0]
    with where("forward"):
        once = place.call(injector, inputs)
        twice = place.call(injector, {name: value[order] for name, value in inputs.items()})
    require(close(once, twice), f"the penalty is {once.item():.6g}, and {twice.item():.6g} for the same samples twice")


@check("point", PENALTY)
def penalty_trains_the_discriminator(places: list[Place]) -> None:
    """The penalty has the right gradient in the discriminator's parameters, and one that is not zero."""
    place = places[0]
    injector, critic = place.build().double(), place.critic().double()
    inputs = place.inputs(injector, ids=(0, 1), dtype=torch.float64)
    names = [name for name, _ in critic.named_parameters()]

    def penalty(*values: Tensor) -> Tensor:
        parameters = dict(zip(names, values, strict=True))
        value = injector(lambda images: functional_call(critic, parameters, (images,)), **inputs)
        assert isinstance(value, Tensor)
        return value

    start = [parameter.detach().clone().requires_grad_() for parameter in critic.parameters()]
    with where("differentiating the penalty"), global_seed(0):
        value = penalty(*start)
        require(value.requires_grad, "the penalty carries no gradient; compute its inner gradients with create_graph")
        gradients = torch.autograd.grad(value, start, allow_unused=True)
        alive = any(g is not None and bool(g.any()) for g in gradients)
        require(alive, "the penalty has no gradient in the discriminator's parameters")
        try:
            gradcheck(penalty, start)
        except GradcheckError as error:
            raise Broken(
                f"the gradient of the penalty in the discriminator's parameters differs from finite differences: "
                f"{str(error).splitlines()[0]}"
            ) from error


@check("place", PENALTY)
def penalty_touches_nothing(place: Place) -> None:
    """A penalty leaves real, fake and the discriminator's gradients untouched and owns no parameters."""
    injector, critic = place.build(), place.critic()
    require(not list(injector.parameters()), "a penalty may not have parameters: no optimiser would train them")
    inputs = place.inputs(injector)
    with where("forward"):
        injector(critic, **inputs)
    for name, image in inputs.items():
        require(not image.requires_grad, f"forward switched on the gradient of {name}; use {name}.detach().clone()")
        require(image.grad is None, f"forward left a gradient on {name}")
    for parameter in critic.parameters():
        require(parameter.grad is None, "forward left gradients on the discriminator; use torch.autograd.grad")


class _PenaltyOf(nn.Module):
    """An image injector's penalty as a module's forward, which `functional_call` can call with other parameters."""

    def __init__(self, injector: ImageInjector) -> None:
        super().__init__()
        self.injector = injector

    def forward(self, images: Tensor, noise: Tensor) -> Tensor | None:
        return self.injector.penalty(images, noise)


def _image_penalty(injector: ImageInjector, inputs: dict[str, Tensor]) -> Tensor | None:
    with where("penalty"):
        value = injector.penalty(**inputs)
    require(value is None or isinstance(value, Tensor), f"penalty returned {type(value).__name__}, expected a tensor")
    return value


@check("place", IMAGE)
def image_penalty_is_per_sample(place: Place) -> None:
    """An image injector's penalty is None, or one finite number per sample, 0 or more, of that sample alone."""
    injector = place.moved()
    for dtype in (torch.float32, torch.float64):
        inputs = place.inputs(injector, dtype=dtype)
        value = _image_penalty(injector.to(dtype), inputs)
        if value is None:
            return
        together = value
        shape = list(value.shape)
        require(shape == [len(IDS)], f"the penalty has shape {shape}, expected [{len(IDS)}]")
        require(value.dtype == dtype, f"the penalty is {value.dtype}, expected {dtype}")
        require(bool(value.isfinite().all()), "the penalty is not finite")
        require(bool((value >= 0).all()), f"the penalty is {value.min().item()}, expected 0 or more")
    alone = _image_penalty(injector, {name: x[1:2] for name, x in inputs.items()})
    require(
        alone is not None and close(together[1:2], alone),
        "the penalty of a sample depends on other samples; do not mix samples",
    )


@check("point", IMAGE)
def image_penalty_trains_it(places: list[Place]) -> None:
    """An image injector's penalty has the right gradient in its parameters, and one that is not zero."""
    place = places[0]
    injector = place.moved().double()
    inputs = place.inputs(injector, ids=(0, 1), dtype=torch.float64)
    value = _image_penalty(injector, inputs)
    if value is None:
        return
    require(injector.trains_with != "none", "trains_with is 'none', so the penalty trains nothing; remove it")
    subject = _PenaltyOf(injector)
    names = [name for name, _ in subject.named_parameters()]
    start = [parameter.detach().clone().requires_grad_() for parameter in subject.parameters()]

    def penalty(*values: Tensor) -> Tensor:
        found = functional_call(subject, dict(zip(names, values, strict=True)), kwargs=inputs)
        assert isinstance(found, Tensor)
        return found

    with where("differentiating the penalty"), global_seed(0):
        value = penalty(*start)
        alive = value.requires_grad and any(
            g is not None and bool(g.any()) for g in torch.autograd.grad(value.sum(), start, allow_unused=True)
        )
        require(alive, "the penalty has no gradient in the injector's parameters")
        try:
            gradcheck(penalty, start, fast_mode=True)
        except GradcheckError as error:
            raise Broken(
                f"the gradient of the penalty in the injector's parameters differs from finite differences: "
                f"{str(error).splitlines()[0]}"
            ) from error
