"""The list of checks. A check is a function that raises `Broken` when a promise of the contract is not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Scope = Literal["strategy", "point", "place"]

TENSOR_POINTS = ("feature", "latent", "style", "image")
"""Injection points whose forward maps a tensor to one of the same shape."""
ALL_POINTS = (*TENSOR_POINTS, "penalty")


class Broken(Exception):
    """A promise that is not kept; the message is one sentence: what was found, where, what is expected."""


@dataclass(frozen=True)
class Check:
    """One promise and the function that tests it.

    `scope` says what the function is given: the `Strategy`, all places of an injection point, or one place at a time.
    """

    name: str
    promise: str
    scope: Scope
    points: tuple[str, ...]
    run: Callable[[Any], None]


CHECKS: dict[str, Check] = {}
"""Every check by name, in the order in which they run."""


def check(scope: Scope, points: tuple[str, ...] = ()) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Enter a function into `CHECKS` under its own name; the first line of its docstring is the promise."""

    def enter(function: Callable[[Any], None]) -> Callable[[Any], None]:
        promise = (function.__doc__ or "").strip().splitlines()[0]
        CHECKS[function.__name__] = Check(function.__name__, promise, scope, points, function)
        return function

    return enter


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Broken(message)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal in shape, dtype and every value (nan equals nan)."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    """Equal to rounding; the default is for float64 results that may have been summed in another order."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@contextmanager
def where(place: str) -> Iterator[None]:
    """Turn any exception of the strategy's own code into `Broken`, saying what was being called."""
    try:
        yield
    except Broken:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise Broken(f"{place} raised {type(error).__name__}" + (f": {lines[0]}" if lines else "")) from error
