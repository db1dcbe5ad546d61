"""`style_gate`: noise whose strength per channel is gated by the style, out = m + r sigmoid(A w + b) e.

e ~ N(0, I) is one map per sample, broadcast over channels, as in StyleGAN2; w is the latent of the site.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from noisegan.api import FeatureInjector, Field, NoiseSite, NoiseSource, Params, StrategySpec, hookimpl


class StyleGateParams(Params):
    strength: float = Field(0.1, ge=-10, le=10, description="strength r at the start")
    openness: float = Field(0.0, ge=-10, le=10, description="bias b at the start; 0 is half open")


class StyleGateNoise(FeatureInjector):
    """Learned, and why each starts where it does:

    * `strength`, r, [], starts at 0.1: were it 0, no gradient would reach the gate.
    * `weight`, A, [C, D], starts at 0: every style has the same noise until training tells them apart.
    * `bias`, b, [C], starts at `openness` (0): gates half open, where the sigmoid is steepest.
    """

    def __init__(self, site: NoiseSite, *, strength: float, openness: float) -> None:
        super().__init__()
        self.resolution = site.resolution
        self.strength = nn.Parameter(torch.tensor(strength))
        self.weight = nn.Parameter(torch.zeros(site.channels, site.w_dim))
        self.bias = nn.Parameter(torch.full((site.channels,), openness))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(1, self.resolution, self.resolution)  # [N, 1, H, W]

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        gate = torch.sigmoid(w @ self.weight.T + self.bias)[:, :, None, None]  # [N, C, 1, 1]
        return x + self.strength * gate * noise


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="style_gate",
            params=StyleGateParams,
            summary="noise whose strength per channel is gated by the style",
            reference="an example of noisegan's, not from a paper",
            identity_at_init=False,
            feature=lambda site, p: StyleGateNoise(site, strength=p.strength, openness=p.openness),
        )
    )
