"""What inversions compute in: the blocks of high resolution, and the networks of the distances after them."""

from __future__ import annotations

import torch

from noisegan.core.generator import Generator
from noisegan.core.layers import set_precision, settle
from noisegan.core.state import DTYPES
from noisegan.errors import NoiseganError


def check_precision(precision: str, device: torch.device) -> None:
    """Raises:
    NoiseganError: when the precision is none of `fp32`, `bf16`, `fp16`, or float16 is asked of a CPU.
    """
    if precision not in DTYPES:
        raise NoiseganError(f"precision {precision!r} is unknown: choose {', '.join(DTYPES)}")
    if precision == "fp16" and device.type == "cpu":
        raise NoiseganError("--precision fp16 needs a GPU (a CPU computes it hundreds of times slower): use bf16")


def compute_in(G: Generator, precision: str, device: torch.device) -> None:
    """Let a network's blocks of high resolution compute in a precision, their weights laid out for it.

    Raises:
        NoiseganError: as `check_precision`.
    """
    check_precision(precision, device)
    set_precision(G.synthesis, DTYPES[precision])
    settle(G, device)
