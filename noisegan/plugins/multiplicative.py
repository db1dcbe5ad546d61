"""`multiplicative`: Gaussian noise as a factor of mean one, out = m (1 + r e).

Gaussian dropout (Srivastava et al. 2014, section 10; Kingma, Salimans and Welling, "Variational dropout and the local
reparameterization trick", 2015, section 3) in a generator, with a learned r. Noise follows the signal: where the map is
zero there is none, and the noise-to-signal ratio is r everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noisegan.api import FeatureInjector, Field, NoiseSite, NoiseSource, Params, StrategySpec, hookimpl

Unit = Literal["pixel", "channel", "element"]


class MultiplicativeParams(Params):
    unit: Unit = Field("pixel", description="what has a number of its own in a sample: pixel, channel, or each element")
    per_channel: bool = Field(False, description="one learned strength per channel instead of one per site")
    strength: float = Field(0.0, ge=-10, le=10, description="strength r at the start")


class MultiplicativeNoise(FeatureInjector):
    """out = m (1 + r e), e ~ N(0, I): [N, 1, H, W] (pixel), [N, C, 1, 1] (channel) or [N, C, H, W] (element).

    Learned: `strength`, r, shape [] or [C, 1, 1]; starts at 0, where out = m and dout/dr = m e is not zero. It is the
    noise-to-signal ratio, so of order one whatever the size of the map.
    """

    def __init__(self, site: NoiseSite, *, unit: Unit, per_channel: bool, strength: float) -> None:
        super().__init__()
        size, channels = site.resolution, site.channels
        self.shape = {"pixel": (1, size, size), "channel": (channels, 1, 1), "element": (channels, size, size)}[unit]
        self.strength = nn.Parameter(torch.full((channels, 1, 1) if per_channel else (), strength))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(*self.shape)

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        # Not x (1 + r e): in 16 bits one plus a small number is one.
        return torch.addcmul(x, x, (self.strength * noise).to(x.dtype))


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="multiplicative",
            params=MultiplicativeParams,
            summary="Gaussian noise as a factor of mean one, with a learned strength",
            reference="Kingma, Salimans, Welling 2015 (arXiv:1506.02557), section 3; Srivastava et al. 2014",
            identity_at_init=True,
            feature=lambda site, p: MultiplicativeNoise(
                site, unit=p.unit, per_channel=p.per_channel, strength=p.strength
            ),
        )
    )
