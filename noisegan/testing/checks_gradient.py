"""Checks of gradients: first and second order against finite differences, and that training can reach parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from torch.func import functional_call

from noisegan.core.rng import Streams
from noisegan.testing.places import Place, global_seed
from noisegan.testing.registry import ALL_POINTS, TENSOR_POINTS, Broken, check, require, where

_EXACT_BELOW = 400
"""Up to this many inputs every element is differentiated; beyond, and for second derivatives, one random direction
(gradcheck's fast mode)."""


def _point(place: Place) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """forward as a function of inputs and parameters, and a generic float64 point of it."""
    injector = place.moved()
    inputs = place.inputs(injector, ids=(0, 1), dtype=torch.float64)
    injector.double()
    names = [name for name, _ in injector.named_parameters()]
    values = [v.clone() for v in inputs.values()] + [p.detach().clone() for _, p in injector.named_parameters()]

    def function(*arguments: Tensor) -> Tensor:
        parameters = dict(zip(names, arguments[len(inputs) :], strict=True))
        given = dict(zip(inputs, arguments[: len(inputs)], strict=True))
        output = functional_call(injector, parameters, place.arguments(given))
        assert isinstance(output, Tensor)
        return output

    return function, [v.requires_grad_(v.numel() > 0) for v in values]


def _explain(error: Exception, order: str) -> Broken:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return Broken(f"{order} of forward differs from finite differences in float64: {lines[0].rstrip(',:')}")


@check("point", TENSOR_POINTS)
def gradients_are_right(places: list[Place]) -> None:
    """First derivatives in every input and parameter agree with finite differences."""
    with where("differentiating forward"), global_seed(0):
        function, values = _point(places[0])
        try:
            gradcheck(function, values, fast_mode=sum(v.numel() for v in values) > _EXACT_BELOW)
        except GradcheckError as error:
            raise _explain(error, "the gradient") from error


@check("point", TENSOR_POINTS)
def second_gradients_are_right(places: list[Place]) -> None:
    """Second derivatives agree with finite differences: path-length regularisation and R1 need them."""
    with where("differentiating forward twice"), global_seed(0):
        function, values = _point(places[0])
        try:
            gradgradcheck(function, values, fast_mode=True)
        except GradcheckError as error:
            raise _explain(error, "the second gradient") from error


def _parameter_gradients(place: Place, *, moved: bool) -> dict[str, Tensor]:
    """Gradients of a random linear function of the output; zeros where there is none."""
    injector = place.moved() if moved else place.build()
    named = {name: parameter for name, parameter in injector.named_parameters() if parameter.requires_grad}
    if not named:
        return {}
    with where("forward and backward"):
        output = place.call(injector, place.inputs(injector))
        weights = Streams(place.seed)["testing/loss"].source(ids=range(len(output)), device=place.device)
        loss = (output * weights.normal(*output.shape[1:])).sum()
        if not loss.requires_grad:
            return {name: torch.zeros_like(parameter) for name, parameter in named.items()}
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), gradients, strict=True)
    }


@check("point", TENSOR_POINTS)
def no_parameter_is_dead(places: list[Place]) -> None:
    """Off the start every parameter gets a finite gradient, and one that is not zero at some site."""
    alive: dict[str, bool] = {}
    for place in places:
        for name, gradient in _parameter_gradients(place, moved=True).items():
            require(bool(gradient.isfinite().all()), f"the gradient of {name} is not finite at {place.label}")
            alive[name] = alive.get(name, False) or bool(gradient.any())
    dead = [name for name, living in alive.items() if not living]
    require(not dead, f"no gradient reaches {', '.join(dead)}; use it in forward or remove it")


@check("place", TENSOR_POINTS)
def training_can_leave_the_start(place: Place) -> None:
    """Where there are parameters, at least one has a gradient at its initial value."""
    gradients = _parameter_gradients(place, moved=False)
    require(
        not gradients or any(bool(g.isfinite().all()) and bool(g.any()) for g in gradients.values()),
        f"at the start the gradients of {', '.join(gradients)} are all zero or not finite, so training cannot move "
        "them; start one factor of a product off zero",
    )


@check("place", ALL_POINTS)
def parameters_are_floats(place: Place) -> None:
    """Parameters are finite and train: each is a finite floating leaf that requires a gradient."""
    for name, parameter in place.build().named_parameters():
        require(bool(parameter.isfinite().all()), f"parameter {name} starts with values that are not finite")
        require(parameter.requires_grad, f"parameter {name} does not require a gradient; make it a buffer")
