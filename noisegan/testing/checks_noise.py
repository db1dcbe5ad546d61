"""Checks of `draw`: what it returns, and that the source it is given is all it uses."""

from __future__ import annotations

import torch
from torch import Tensor

from noisegan.testing.places import IDS, Place, global_seed, global_state
from noisegan.testing.registry import ALL_POINTS, TENSOR_POINTS, check, close, require, same_bits, where

_DRAWS = 16
"""Draws that are compared: noise may leave a sample alone with some probability, but not every time."""


def _draw(place: Place, ids: tuple[int, ...] = IDS, step: int = 0) -> Tensor:
    with where("draw"):
        noise = place.moved().draw(place.source(ids, step))
    require(isinstance(noise, Tensor), f"draw returned {type(noise).__name__}, expected a tensor [N, ...]")
    assert isinstance(noise, Tensor)
    return noise


@check("place", TENSOR_POINTS)
def draw_returns_noise(place: Place) -> None:
    """draw returns a finite floating tensor [N, ...] on the source's device, without gradient."""
    noise = _draw(place)
    shape = list(noise.shape)
    require(noise.ndim >= 1 and shape[0] == len(IDS), f"draw returned shape {shape}, expected [{len(IDS)}, ...]")
    require(noise.dtype.is_floating_point, f"draw returned {noise.dtype}, expected floating point")
    wanted = torch.device(place.device).type
    require(noise.device.type == wanted, f"draw returned a tensor on {noise.device}, its source is on {wanted}")
    require(not noise.requires_grad, "what draw returned requires a gradient; learned factors belong in forward")
    require(bool(noise.isfinite().all()), "draw returned values that are not finite")


@check("place", TENSOR_POINTS)
def draw_uses_its_source_only(place: Place) -> None:
    """The same source gives the same bits, whatever torch's, numpy's and Python's random states are."""
    with global_seed(1):
        first = _draw(place)
    with global_seed(2):
        second = _draw(place)
    require(same_bits(first, second), "two draws from the same source differ; take all random numbers from the source")


@check("place", TENSOR_POINTS)
def draw_is_per_sample(place: Place) -> None:
    """A sample's noise depends on its own id only, so a batch may be split anywhere."""
    both, alone = _draw(place, (3, 7)), _draw(place, (7,))
    require(
        alone.shape == both[1:].shape and close(both[1:], alone, 1e-6),
        "the noise of sample 7 in the batch [3, 7] differs from its noise alone; do not mix samples or use N in draw",
    )


@check("place", ALL_POINTS)
def leaves_global_randomness(place: Place) -> None:
    """Construction, draw and forward leave torch's, numpy's and Python's random states as they were."""
    with global_seed(3):
        before = global_state()
        injector = place.moved()
        require(global_state() == before, "construction changed numpy's or Python's random state; use torch's only")
        with where("draw"):
            inputs = place.inputs(injector)
        require(global_state() == before, "draw changed a global random state; take all numbers from the source")
        with where("forward"):
            place.call(injector, inputs)
        require(global_state() == before, "forward changed a global random state; it must be a pure function")


@check("place", ALL_POINTS)
def starts_the_same(place: Place) -> None:
    """Two injectors built for the same seed start with the same parameters and buffers."""
    with global_seed(1):
        first = place.build().state_dict()
    with global_seed(2):
        second = place.build().state_dict()
    require(list(first) == list(second), f"two constructions have entries {list(first)} and {list(second)}")
    for name, value in first.items():
        require(
            same_bits(value, second[name]),
            f"{name} starts differently each time; initialise with torch's generator or constants",
        )


@check("place", TENSOR_POINTS)
def works_with_noise_off(place: Place) -> None:
    """With noise off (normals 0, uniforms 1/2) forward is finite and the same every time."""
    injector = place.moved()
    with where("forward with noise off"):
        first = place.call(injector, place.inputs(injector, off=True))
        second = place.call(injector, place.inputs(injector, off=True))
    require(bool(first.isfinite().all()), "forward with noise off is not finite; it must stand noise that is all zero")
    require(same_bits(first, second), "two forwards with noise off differ")


@check("place", TENSOR_POINTS)
def regularises_per_sample(place: Place) -> None:
    """regularise gives a finite number per sample and renormalise noise of the same shape, of each sample alone."""
    injector, noise = place.moved(), _draw(place)
    with where("regularise"):
        penalty = injector.regularise(noise)
    with where("renormalise"):
        back = injector.renormalise(noise)
    if penalty is not None:
        shape = list(penalty.shape)
        require(shape == [len(noise)], f"regularise returned shape {shape}, expected [{len(noise)}]: one per sample")
        require(bool(penalty.isfinite().all()), "regularise returned a number that is not finite for noise as drawn")
        alone = injector.regularise(noise[1:2])
        require(
            alone is not None and close(penalty[1:2], alone, 1e-5),
            "the penalty of a sample in a batch differs from its penalty alone; do not mix samples in regularise",
        )
    if back is not None:
        shape = list(back.shape)
        require(shape == list(noise.shape), f"renormalise returned shape {shape}, expected {list(noise.shape)}")
        alone = injector.renormalise(noise[1:2])
        require(
            alone is not None and close(back[1:2], alone, 1e-5),
            "renormalise gives a sample in a batch other numbers than alone; do not mix samples in it",
        )


@check("place", TENSOR_POINTS)
def noise_matters(place: Place) -> None:
    """Other draws give other outputs, for every sample, unless draw returns no numbers."""
    injector = place.moved()
    if _draw(place).numel() == 0:
        return
    with where("forward"):
        first, *others = (place.call(injector, place.inputs(injector, step=step)) for step in range(_DRAWS))
    changed = torch.stack([(first != other).flatten(1).any(dim=1) for other in others])  # [draws - 1, N]
    require(
        bool(changed.any(dim=0).all()),
        f"{_DRAWS} draws give the same output though the parameters are off their start; use the noise or draw [N, 0]",
    )
