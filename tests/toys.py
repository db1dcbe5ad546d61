"""Small strategies that keep the contract, one per injection point; the mutants in `mutants.py` break them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisegan.api import (
    Ahead,
    FeatureInjector,
    Field,
    ImageInjector,
    LatentInjector,
    LookAheadInjector,
    NoiseSource,
    Params,
    PenaltyInjector,
    StrategySpec,
    StyleInjector,
)


class ToyParams(Params):
    strength: float = Field(0.5, ge=0, le=10, description="strength at the start")


class ToyFeature(FeatureInjector):
    """out = m + r fade e, with a random start, and a buffer that progress moves."""

    def __init__(self, site: Any, strength: float = 0.5) -> None:
        super().__init__()
        self.site = site
        self.strength = nn.Parameter(strength + 0.01 * torch.randn(site.channels, 1, 1))
        self.register_buffer("fade", torch.tensor(1.0))
        self.fade: Tensor

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(1, self.site.resolution, self.site.resolution)

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + self.strength * self.fade * noise

    def set_progress(self, fraction: float) -> None:
        self.fade.fill_(1 - fraction / 2)


class ToyLookAhead(LookAheadInjector):
    """out = m + r e / how loudly the next convolutions read each channel."""

    def __init__(self, site: Any) -> None:
        super().__init__()
        self.site = site
        self.strength = nn.Parameter(torch.tensor(0.5))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(1, self.site.resolution, self.site.resolution)

    def forward(self, x: Tensor, noise: Tensor, w: Tensor, ahead: Ahead) -> Tensor:
        return x + self.strength * noise * (ahead.scale / (1 + self.heard(ahead)))[..., None, None].to(x.dtype)

    def heard(self, ahead: Ahead) -> Tensor:
        """[N, C]."""
        squares = [
            torch.einsum("no,ocd->nc", reader.demod.square(), reader.weight.square().flatten(2)) * reader.style.square()
            for reader in ahead.readers
        ]
        return torch.stack(squares).sum(0) + ahead.bias.square()


class ToyLatent(LatentInjector):
    """w + affine(chunk of noise)."""

    def __init__(self, site: Any) -> None:
        super().__init__()
        self.affine = nn.Linear(4, site.w_dim)

    def draw(self, source: NoiseSource) -> Tensor:
        return source.uniform(4)

    def forward(self, w: Tensor, noise: Tensor) -> Tensor:
        return w + self.affine(noise)


class ToyStyle(StyleInjector):
    """style + B chunk."""

    def __init__(self, site: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, site.in_channels))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(4)

    def forward(self, style: Tensor, noise: Tensor) -> Tensor:
        return style + noise @ self.weight


class ToyImage(ImageInjector):
    """img + s(t) e, s falling to 0: instance noise."""

    def __init__(self, site: Any) -> None:
        super().__init__()
        self.shape = (site.channels, site.resolution, site.resolution)
        self.register_buffer("size", torch.tensor(0.1))
        self.size: Tensor

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(*self.shape)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        return images + self.size * noise

    def set_progress(self, fraction: float) -> None:
        self.size.fill_(0.1 * (1 - fraction))


class ToyLearnedImage(ToyImage):
    """img + (s(t) + softplus(c)) e, trained with the discriminator."""

    trains_with = "D"

    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.learned = nn.Parameter(torch.zeros(site.channels, 1, 1))

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        return images + (self.size + F.softplus(self.learned)) * noise


class ToyOpposedImage(ToyLearnedImage):
    """The same, trained against the discriminator at the price of its power."""

    trains_with = "against D"

    def penalty(self, images: Tensor, noise: Tensor) -> Tensor:
        return (F.softplus(self.learned) * noise).square().flatten(1).mean(dim=1)  # [N]


class ToyPenalty(PenaltyInjector):
    """Mean squared gradient of the logits at real images: R1."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(1.0))
        self.weight: Tensor

    def forward(self, discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        return self.weight * squared_gradient(discriminate, real).mean()

    def set_progress(self, fraction: float) -> None:
        self.weight.fill_(1 - fraction)


def squared_gradient(discriminate: Callable[[Tensor], Tensor], images: Tensor, *, create_graph: bool = True) -> Tensor:
    """|grad of the logits|^2 per sample, [N]."""
    images = images.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminate(images).sum(), images, create_graph=create_graph)
    return gradient.square().flatten(1).sum(dim=1)


def toy(name: str = "toy", *, params: Any = ToyParams, identity: bool = False, **factories: Any) -> StrategySpec[Any]:
    """A spec around the given factories, say `feature=lambda site, p: ...`."""
    return StrategySpec(
        name=name, params=params, summary="a toy", reference="these tests", identity_at_init=identity, **factories
    )


CONFORMING = {
    "feature": toy(feature=lambda site, p: ToyFeature(site, p.strength)),
    "look ahead": toy(feature=lambda site, p: ToyLookAhead(site)),
    "latent": toy(latent=lambda site, p: ToyLatent(site)),
    "style": toy(style=lambda site, p: ToyStyle(site)),
    "image": toy(image=lambda site, p: ToyImage(site)),
    "learned image": toy(image=lambda site, p: ToyLearnedImage(site)),
    "opposed image": toy(image=lambda site, p: ToyOpposedImage(site)),
    "penalty": toy(penalty=lambda p: ToyPenalty()),
    "all points": toy(
        feature=lambda site, p: ToyFeature(site, p.strength),
        latent=lambda site, p: ToyLatent(site),
        style=lambda site, p: ToyStyle(site),
        image=lambda site, p: ToyLearnedImage(site),
        penalty=lambda p: ToyPenalty(),
    ),
}
