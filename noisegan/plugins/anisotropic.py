"""`anisotropic`: noise with a learned covariance between channels, out = m + d * e0 + B e1.

At every pixel the noise has covariance diag(d^2) + B B^T over the channels, the model of factor analysis: d [C] is
noise of each channel by itself, B [C, rank] noise that channels share along `rank` learned directions. e0 has C maps
per sample and e1 has `rank`, all independent standard normals. `additive` is the case d = 0, rank 1, B = r 1, its
per-channel form B = r.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noisegan.api import FeatureInjector, Field, NoiseSite, NoiseSource, Params, StrategySpec, hookimpl


class AnisotropicParams(Params):
    rank: int = Field(4, ge=1, le=64, description="number of directions along which channels share noise")
    strength: float = Field(0.0, ge=-10, le=10, description="d at the start: noise of each channel by itself (learned)")


class AnisotropicNoise(FeatureInjector):
    """out = m + d * e0 + B e1.

    Learned, in units of the demodulated map, whose standard deviation is about one:

    * `diagonal`, d, [C, 1, 1], starts at 0.
    * `directions`, B, [C, rank], starts at 0.

    Both enter linearly, with noise of their own as the other factor, so at zero neither is dead: dout/dd = e0 and
    dout/dB = e1. The columns of B meet different maps and part at the first step. No overall strength stands before
    them: a product of two zeros would be dead, and their size is the strength.
    """

    def __init__(self, site: NoiseSite, *, rank: int, strength: float) -> None:
        super().__init__()
        self.channels, self.rank, self.resolution = site.channels, rank, site.resolution
        self.diagonal = nn.Parameter(torch.full((site.channels, 1, 1), strength))
        self.directions = nn.Parameter(torch.zeros(site.channels, rank))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(self.channels + self.rank, self.resolution, self.resolution)  # e0, then e1

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + self.total(noise).to(x.dtype)

    def added(self, noise: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        total = self.total(noise)
        return [(total, total.new_ones(()))]

    def total(self, noise: Tensor) -> Tensor:
        """d * e0 + B e1: noise [N, C + rank, H, W] -> [N, C, H, W], in float32 at least."""
        e = noise.to(torch.promote_types(noise.dtype, torch.float32))
        own, shared = e.split((self.channels, self.rank), dim=1)  # [N, C, H, W], [N, rank, H, W]
        with torch.autocast(noise.device.type, enabled=False):
            mixed = self.directions.to(e.dtype) @ shared.flatten(2)  # [N, C, H W]
        total: Tensor = self.diagonal * own + mixed.view_as(own)
        return total


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="anisotropic",
            params=AnisotropicParams,
            summary="additive noise with a learned covariance between channels, diagonal plus low rank",
            reference="factor analysis (Rubin, Thayer 1982) of the noise of StyleGAN, Karras et al. 2019",
            identity_at_init=True,
            feature=lambda site, p: AnisotropicNoise(site, rank=p.rank, strength=p.strength),
        )
    )
