"""Checks of what an injector keeps: checkpoints restore it, copies (the averaged generator) are independent of it."""

from __future__ import annotations

import copy
import pickle
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn

from noisegan.testing.places import Place
from noisegan.testing.registry import ALL_POINTS, check, require, same_bits, where


@check("place", ALL_POINTS)
def state_round_trips(place: Place) -> None:
    """state_dict, loaded strictly into a new injector, gives the same output, also in the middle of training."""
    injector = place.moved()
    injector.set_progress(0.5)
    fresh = place.build()
    with where("loading its state_dict into a new injector"):
        fresh.load_state_dict(injector.state_dict(), strict=True)
    inputs = place.inputs(injector)
    with where("forward"):
        before, after = place.call(injector, inputs), place.call(fresh, inputs)
    require(
        same_bits(before, after),
        "a new injector with the loaded state_dict gives another output; keep state in parameters and saved buffers",
    )


@check("place", ALL_POINTS)
def copies_are_independent(place: Place) -> None:
    """copy.deepcopy gives an injector of its own, as the averaged generator needs."""
    injector = place.moved()
    inputs = place.inputs(injector)
    expected = place.call(injector, inputs)
    with where("copy.deepcopy"):
        duplicate = copy.deepcopy(injector)
    require(same_bits(place.call(duplicate, inputs), expected), "a deep copy gives another output than its original")
    place.move(duplicate, step=1)
    reference = place.build()
    reference.load_state_dict(duplicate.state_dict())
    require(
        same_bits(place.call(duplicate, inputs), place.call(reference, inputs)),
        "a deep copy does not follow its own parameters; do not keep functions or views of them",
    )
    require(same_bits(place.call(injector, inputs), expected), "changing a deep copy changes its original")


@check("place", ALL_POINTS)
def progress_moves_buffers_only(place: Place) -> None:
    """set_progress accepts 0 to 1, changes no parameter, and forward stays finite."""
    injector = place.moved()
    inputs = place.inputs(injector)
    before = {name: parameter.detach().clone() for name, parameter in injector.named_parameters()}
    for fraction in (0.0, 0.5, 1.0):
        with where(f"set_progress({fraction})"):
            injector.set_progress(fraction)
        for name, parameter in injector.named_parameters():
            require(
                name in before and same_bits(parameter.detach(), before[name]),
                f"set_progress({fraction}) changed parameter {name}; it may change buffers only",
            )
        with where(f"forward after set_progress({fraction})"):
            output = place.call(injector, inputs)
        require(bool(torch.isfinite(output).all()), f"forward is not finite after set_progress({fraction})")


@check("place", ALL_POINTS)
def progress_keeps_to_its_buffers(place: Place) -> None:
    """set_progress changes buffers in place and nothing else, so that a CUDA graph sees what it changes."""
    injector = place.moved()
    injector.set_progress(0.0)
    before = _kept(injector)
    for fraction in (0.5, 1.0):
        injector.set_progress(fraction)
        after = _kept(injector)
        for name in before | after:
            require(
                before.get(name) == after.get(name),
                f"set_progress({fraction}) changed or replaced {name}, of which a CUDA graph would go on with the old "
                "value; register a buffer and change it in place (fill_, copy_)",
            )


_EVERY_MODULE = vars(nn.Module()).keys()


def _kept(injector: nn.Module) -> dict[str, bytes]:
    """What a module and those in it keep beside parameters, by name, to be compared."""
    found = {}
    for path, module in injector.named_modules():
        own = {name: value for name, value in vars(module).items() if name not in _EVERY_MODULE}
        for name, value in (own | dict(module.named_buffers(recurse=False))).items():
            found[f"{path}.{name}".lstrip(".")] = _written(value)
    return found


class _Writer(pickle.Pickler):
    """Writes, for a tensor, where it lies, and for a module, which it is."""

    def persistent_id(self, value: Any) -> int | None:
        if isinstance(value, Tensor):
            return value.data_ptr()
        return id(value) if isinstance(value, nn.Module) else None


def _written(value: Any) -> bytes:
    file = BytesIO()
    try:
        _Writer(file).dump(value)
    except Exception:  # not to be written, such as a local function
        return repr(value).encode()
    return file.getvalue()
