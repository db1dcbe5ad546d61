"""Noise modes. Every mode is a way to make one thing: a mapping from injection key to noise tensor.

    fresh    a stream of the run, another step each time       StreamNoise(streams, step=step, ids=ids)
    frozen   the same numbers for the same sample, always      StreamNoise(Streams(noise_seed), ids=ids)
    off      every draw at its mean                            NoNoise(batch)
    given    the caller's tensors                              {"b8.conv0/additive": tensor, ...}

The generator draws through `NoiseMode.source`, so no strategy knows which mode it runs in.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from noisegan.api import NoiseSource
from noisegan.core.rng import MeanSource, Streams, as_ids
from noisegan.errors import NoiseganError

NOISE_MODES = ("fresh", "frozen", "off")


class NoiseMode(Protocol):
    """Where the noise of a forward pass comes from."""

    batch: int

    def source(self, name: str, device: torch.device) -> NoiseSource:
        """The source for the stream `noise/<name>`."""
        ...


class StreamNoise:
    """Noise from named streams: fresh when `step` moves on, frozen when it stays.

    Args:
        streams: the streams of a seed.
        ids: one id per sample; a sample's noise depends on its own id only.
        step: counter of the training step, a number or a tensor of one.
        phase: keeps two uses within one step apart (such as the generator's and the discriminator's turn).
    """

    def __init__(
        self, streams: Streams, *, ids: Sequence[int] | Tensor, step: int | Tensor = 0, phase: str = "eval"
    ) -> None:
        self.batch = len(ids)
        self._ids = ids if isinstance(ids, Tensor) else as_ids(ids)
        self._streams, self._step, self._phase = streams, step, phase

    def source(self, name: str, device: torch.device) -> NoiseSource:
        stream = self._streams[f"noise/{name}/{self._phase}"]
        return stream.source(step=self._step, ids=self._ids, device=device)


class NoNoise:
    """Noise switched off: normals are 0 and uniforms 1/2, so `fuzzy` leaves its mean and `additive` nothing."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def source(self, name: str, device: torch.device) -> NoiseSource:
        return MeanSource(self.batch, device)


NoiseInput: TypeAlias = NoiseMode | Mapping[str, Tensor] | str


def noise_mode(mode: str, batch: int, *, seed: int | None = None, ids: Sequence[int] | None = None) -> NoiseMode:
    """The mode called `fresh`, `frozen` or `off`.

    Args:
        batch: number of samples.
        seed: noise seed; default 0 for frozen, the operating system's entropy for fresh.
        ids: sample ids, default 0 .. batch - 1.

    Raises:
        NoiseganError: for another name.
    """
    if mode not in NOISE_MODES:
        raise NoiseganError(f"noise mode {mode!r} is unknown: choose {', '.join(NOISE_MODES)}, or give tensors")
    if mode == "off":
        return NoNoise(batch)
    if seed is None:
        seed = 0 if mode == "frozen" else secrets.randbits(63)
    return StreamNoise(Streams(seed), ids=range(batch) if ids is None else ids)
