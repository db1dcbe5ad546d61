"""A plugin file that uses all four injection points, a buffer that progress moves, and every kind of parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from noisegan.api import (
    FeatureInjector,
    Field,
    ImageInjector,
    LatentInjector,
    NoiseSite,
    NoiseSource,
    Params,
    PenaltyInjector,
    StrategySpec,
    hookimpl,
)


class AllPointsParams(Params):
    strength: float = Field(0.1, ge=0, le=1, description="strength at the start")


class Feature(FeatureInjector):
    def __init__(self, site: NoiseSite, strength: float) -> None:
        super().__init__()
        self.site = site
        self.mix = nn.Conv2d(1, site.channels, 1)  # initialised from torch's global state
        self.strength = nn.Parameter(torch.tensor(strength))
        self.register_buffer("fade", torch.tensor(1.0))

    def set_progress(self, fraction: float) -> None:
        self.fade.fill_(1 - fraction)

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(1, self.site.resolution, self.site.resolution) + source.uniform(1, 1, 1)

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + self.strength * self.fade * self.mix(noise)


class Latent(LatentInjector):
    def __init__(self, site: NoiseSite) -> None:
        super().__init__()
        self.affine = nn.Linear(3, site.w_dim)

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(3)

    def forward(self, w: Tensor, noise: Tensor) -> Tensor:
        return w + self.affine(noise)


class Image(ImageInjector):
    trains_with = "D"

    def __init__(self, resolution: int, channels: int) -> None:
        super().__init__()
        self.shape = (channels, resolution, resolution)
        self.strength = nn.Parameter(torch.tensor(0.1))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(*self.shape)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        return images + self.strength * noise


class Penalty(PenaltyInjector):
    def forward(self, discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        return 0.01 * (discriminate(real).square() + discriminate(fake).square()).mean()


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="all_points",
            params=AllPointsParams,
            summary="a bit of everything",
            reference="the tests",
            identity_at_init=False,
            feature=lambda site, p: Feature(site, p.strength),
            latent=lambda site, p: Latent(site),
            image=lambda site, p: Image(site.resolution, site.channels),
            penalty=lambda p: Penalty(),
        )
    )
