"""`additive`: StyleGAN's noise, out = m + r e.

e ~ N(0, I) is one map per sample, broadcast over channels. r is learned: one scalar per site (StyleGAN2, Karras et al.
2020, section 2.1) or one per channel (StyleGAN, Karras et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from noisegan.api import FeatureInjector, Field, NoiseSite, NoiseSource, Params, StrategySpec, hookimpl


class AdditiveParams(Params):
    per_channel: bool = Field(False, description="one learned strength per channel instead of one per site")
    strength: float = Field(0.0, ge=-10, le=10, description="strength r at the start; StyleGAN2 starts at 0")


class AdditiveNoise(FeatureInjector):
    """out = m + r e.

    Learned: `strength`, r, shape [] or [C, 1, 1]; starts at 0 (no noise until the network asks for it, as in
    StyleGAN2), in units of the demodulated feature map, whose standard deviation is about one.
    """

    def __init__(self, site: NoiseSite, *, per_channel: bool, strength: float) -> None:
        super().__init__()
        self.resolution = site.resolution
        self.strength = nn.Parameter(torch.full((site.channels, 1, 1) if per_channel else (), strength))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(1, self.resolution, self.resolution)  # [N, 1, H, W]

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + self.strength * noise

    def added(self, noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(noise, self.strength)]


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="additive",
            params=AdditiveParams,
            summary="StyleGAN's noise: one map per sample added to all channels with a learned strength",
            reference="Karras et al. 2020 (arXiv:1912.04958), section 2.1; per channel: Karras et al. 2019",
            identity_at_init=True,
            feature=lambda site, p: AdditiveNoise(site, per_channel=p.per_channel, strength=p.strength),
        )
    )
