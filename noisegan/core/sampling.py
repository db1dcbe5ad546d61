"""Images by seed, as StyleGAN users know them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from noisegan.core.generator import Generator
from noisegan.core.noise import noise_mode
from noisegan.errors import NoiseganError


def seed_latents(seeds: Sequence[int], z_dim: int) -> Tensor:
    """z of published seeds, [N, z_dim] float32: row i is numpy's RandomState(seeds[i]).randn(1, z_dim)."""
    rows = [np.random.RandomState(seed).randn(1, z_dim) for seed in seeds]
    return torch.from_numpy(np.concatenate(rows)).float()


def class_label(G: Generator, class_index: int | None, batch: int) -> Tensor | None:
    """One-hot labels [batch, c_dim] of one class, None for an unconditional network.

    Raises:
        NoiseganError: when a class is missing, not wanted, or out of range.
    """
    if G.c_dim == 0:
        if class_index is not None:
            raise NoiseganError("this network has no classes: leave out --class")
        return None
    if class_index is None or not 0 <= class_index < G.c_dim:
        got = "none was given" if class_index is None else f"got {class_index}"
        raise NoiseganError(f"this network is conditional: give --class 0 to {G.c_dim - 1} ({got})")
    device = G.mapping.w_avg.device
    return F.one_hot(torch.tensor([class_index] * batch, device=device), G.c_dim).float()


def styles_of_seeds(
    G: Generator, seeds: Sequence[int], *, truncation: float = 1.0, class_index: int | None = None
) -> Tensor:
    """ws [N, num_ws, w_dim] of seeds.

    Raises:
        NoiseganError: when the truncation is not finite, or the class does not fit the network.
    """
    if not math.isfinite(truncation):
        raise NoiseganError(f"--trunc must be a finite number, not {truncation}")
    z = seed_latents(seeds, G.z_dim).to(G.mapping.w_avg.device)
    return G.styles(z, class_label(G, class_index, len(seeds)), truncation=truncation)


@torch.no_grad()
def render(
    G: Generator, ws: Tensor, ids: Sequence[int], *, mode: str, noise_seed: int | None, batch: int = 16
) -> Iterator[Tensor]:
    """Images of styles, a batch at a time.

    Args:
        ws: [N, num_ws, w_dim].
        ids: one id per image; its noise depends on this and the noise seed only.
        mode: `fresh`, `frozen` or `off`.
        noise_seed: seed of the noise.
        batch: images at a time.

    Yields:
        [n, C, R, R] in about [-1, 1].
    """
    for first in range(0, len(ids), batch):
        some = list(ids[first : first + batch])
        noise = G.draw_noise(noise_mode(mode, len(some), seed=noise_seed, ids=some), len(some))
        yield G.synthesis(ws[first : first + batch], noise)
