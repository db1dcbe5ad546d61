"""Checks of `forward`: shapes and dtypes, purity, independence of samples, one graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from noisegan.api import LookAheadInjector
from noisegan.testing.places import SHARED, Place, global_seed
from noisegan.testing.registry import ALL_POINTS, TENSOR_POINTS, Broken, check, close, require, same_bits, where


@check("place", TENSOR_POINTS)
def forward_keeps_shape_and_dtype(place: Place) -> None:
    """forward keeps shape, dtype and device of its first argument, in float32, float64 and bfloat16."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        injector = place.moved()
        inputs = place.inputs(injector, dtype=dtype)
        with where(f"forward in {dtype}"):
            output = place.call(injector.to(dtype), inputs)
        first = next(iter(inputs.values()))
        found, wanted = list(output.shape), list(first.shape)
        require(found == wanted, f"forward in {dtype} returned shape {found}, expected {wanted}")
        require(output.dtype == dtype, f"forward in {dtype} returned {output.dtype}, expected {dtype}")
        require(output.device == first.device, f"forward returned a tensor on {output.device}, not {first.device}")
        require(bool(output.isfinite().all()), f"forward in {dtype} is not finite")


@check("place", ALL_POINTS)
def forward_is_repeatable(place: Place) -> None:
    """The same inputs give the same bits, in training and in evaluation, whatever the global random states are."""
    injector = place.moved()
    inputs = place.inputs(injector)
    for training in (True, False):
        injector.train(training)
        with where("forward"), global_seed(1):
            first = place.call(injector, inputs)
        with where("forward"), global_seed(2):
            second = place.call(injector, inputs)
        mode = "training" if training else "evaluation"
        require(same_bits(first, second), f"two forwards with the same inputs differ in {mode} mode")


@check("place", ALL_POINTS)
def forward_changes_nothing(place: Place) -> None:
    """forward modifies neither its inputs nor parameters nor buffers."""
    injector = place.moved()
    inputs = place.inputs(injector)
    kept = {name: value.clone() for name, value in inputs.items()}
    state = {name: value.clone() for name, value in _tensors(injector).items()}
    with where("forward"):
        place.call(injector, inputs)
    for name, value in inputs.items():
        require(same_bits(value, kept[name]), f"forward modified its argument {name} in place")
    for name, value in _tensors(injector).items():
        require(
            name in state and same_bits(value, state[name]),
            f"forward changed {name}; only set_progress may change buffers, only the optimiser parameters",
        )


def _tensors(injector: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and all buffers, also those that are not saved."""
    return {**dict(injector.named_parameters()), **dict(injector.named_buffers())}


@check("place", TENSOR_POINTS)
def forward_is_per_sample(place: Place) -> None:
    """Row i of the output depends on row i of the inputs only."""
    injector = place.moved()
    inputs = place.inputs(injector, dtype=torch.float64)
    others = place.inputs(injector, ids=(0, 11, 2), dtype=torch.float64)
    injector.double()
    order = torch.tensor([2, 0, 1], device=place.device)
    with where("forward"):
        output = place.call(injector, inputs)
        changed = place.call(injector, others)
        shuffled = place.call(
            injector, {name: value if name in SHARED else value[order] for name, value in inputs.items()}
        )
    keep = [0, 2]
    require(
        changed.shape == output.shape and close(output[keep], changed[keep]),
        "another sample 1 changes the outputs of samples 0 and 2; do not mix samples in forward",
    )
    require(close(output[order], shuffled), "the same samples in another order give other outputs, expected the same")


@check("place", ("feature",))
def added_is_what_forward_adds(place: Place) -> None:
    """added returns None, or products (noise, strength) whose sum is what forward adds to x."""
    injector = place.moved()
    if isinstance(injector, LookAheadInjector):  # never asked
        return
    inputs = place.inputs(injector, dtype=torch.float64)
    injector.double()
    with where("added"):
        terms = injector.added(inputs["noise"])
    if terms is None:
        return
    with where("forward"):
        output = place.call(injector, inputs)
    expected = inputs["x"]
    for noise, strength in terms:
        expected = expected + noise * strength
    require(
        close(output, expected),
        "forward gives another output than x plus the products of added; make them agree, or leave added out",
    )


@check("point", TENSOR_POINTS)
def forward_is_one_graph(places: list[Place]) -> None:
    """torch.compile traces forward into one graph that gives the same output."""
    place = places[0]
    injector = place.moved()
    inputs = place.inputs(injector)
    expected = place.call(injector, inputs)
    torch.compiler.reset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own
            compiled: Callable[..., torch.Tensor] = torch.compile(injector, fullgraph=True, backend="eager")
            output = compiled(*place.arguments(inputs))
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Broken(
            f"torch.compile cannot trace forward into one graph ({lines[0]}); avoid branches on tensor values, "
            "item() and lists of results"
        ) from error
    finally:
        torch.compiler.reset()
    require(close(output, expected, 1e-5), "the compiled forward gives another output than the plain one")
