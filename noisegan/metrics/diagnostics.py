"""What noise does to an image: the spread over noise draws at a fixed latent (Feng, Zhao, Zha 2021, figure 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from noisegan.core.data import ImageDataset
from noisegan.core.generator import Generator
from noisegan.core.images import to_bytes
from noisegan.core.noise import NoNoise, StreamNoise
from noisegan.core.rng import Streams
from noisegan.metrics.evaluate import latents

DRAWS = 100
"""Noise draws per latent, as in the paper's figure."""


@torch.no_grad()
def noise_spread(
    G: Generator, dataset: ImageDataset, *, seed: int, count: int, batch: int = 50
) -> tuple[Tensor, Tensor]:
    """Standard deviation over noise draws, and the image without noise, of the first latents of an evaluation seed.

    Args:
        count: number of latents.
        batch: noise draws at a time.

    Returns:
        std [count, R, R] float32 in units of [-1, 1], averaged over channels (n - 1 in the variance); images with noise
        off [count, C, R, R] uint8. Both on the CPU.
    """
    z, c = latents(G, dataset, seed, range(count))
    streams = Streams(seed)
    off = to_bytes(G(z, c, noise=NoNoise(count))).cpu()
    spread = []
    for i in range(count):
        total = torch.zeros((), dtype=torch.float64)
        squares = torch.zeros((), dtype=torch.float64)
        origin = torch.zeros((), dtype=torch.float64)
        for first in range(0, DRAWS, batch):
            ids = range(first, min(first + batch, DRAWS))
            noise = StreamNoise(streams, ids=ids, step=i, phase="diagnostics")
            images = G(z[i].expand(len(ids), -1), c[i].expand(len(ids), -1), noise=noise).cpu().double()
            origin = images[0] if first == 0 else origin  # draws that agree have a deviation of exactly zero
            total = total + (images - origin).sum(0)  # [C, R, R]
            squares = squares + (images - origin).square().sum(0)
        variance = (squares - total.square() / DRAWS).clamp(min=0) / (DRAWS - 1)
        spread.append(variance.sqrt().mean(0).float())
    return torch.stack(spread), off
