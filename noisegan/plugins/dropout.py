"""`dropout`: pix2pix's noise, out = m b / (1 - rate) with b = 0 at a share `rate` of the map and 1 elsewhere.

Isola et al., "Image-to-image translation with conditional adversarial networks", 2017, section 3.2: the generator's
noise is dropout alone, in training and when it is used. Here too it stays on: only the noise mode `off` ends it. The
factor has mean one (inverted scaling), so `off` leaves the mean, out = m.

Noise is drawn as the deviation of that factor from one, e = b / (1 - rate) - 1. Its mean is zero, so e = 0, which is
what `off` asks for, means the same as in every other strategy: no noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from noisegan.api import FeatureInjector, Field, NoiseSite, NoiseSource, Params, StrategySpec, hookimpl

Unit = Literal["element", "channel", "pixel"]


class DropoutParams(Params):
    rate: float = Field(0.5, gt=0, lt=1, description="share of the map that is dropped; pix2pix has 0.5")
    unit: Unit = Field("element", description="what is dropped as one: each element, a channel, or a pixel's channels")


class DropoutNoise(FeatureInjector):
    """out = m (1 + e) with e = -1 (dropped) or rate / (1 - rate): mean 0, variance rate / (1 - rate).

    Nothing is learned, and noise is there from the start.
    """

    def __init__(self, site: NoiseSite, *, rate: float, unit: Unit) -> None:
        super().__init__()
        size, channels = site.resolution, site.channels
        self.rate = rate
        self.shape = {"element": (channels, size, size), "channel": (channels, 1, 1), "pixel": (1, size, size)}[unit]

    def draw(self, source: NoiseSource) -> Tensor:
        u = source.uniform(*self.shape)  # [N, C, H, W], [N, C, 1, 1] or [N, 1, H, W]
        e = (u >= self.rate).to(u.dtype) / (1 - self.rate) - 1
        # The mean of u stands for noise switched off and so gives the mean of e. A number drawn meets it once in 2^24.
        return torch.where(u == 0.5, torch.zeros_like(e), e)

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x * (1 + noise)


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="dropout",
            params=DropoutParams,
            summary="pix2pix's noise: dropout that stays on when the generator is used",
            reference="Isola et al. 2017 (arXiv:1611.07004), section 3.2; Srivastava et al. 2014",
            identity_at_init=False,
            feature=lambda site, p: DropoutNoise(site, rate=p.rate, unit=p.unit),
        )
    )
