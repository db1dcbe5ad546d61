"""`filtering`: distribution filtering, noise that learns to make the discriminator's task hard.

Jenni and Favaro, "On Stabilizing Generative Adversarial Training with Noise", CVPR 2019 (DFGAN), section 3.1. Adding
independent noise to images convolves their distribution with that of the noise. Real and generated images enter D both
as they are and with noise N(e; theta) added, so matching the sharp distributions stays the aim while the blurred ones
always overlap. With l the loss of D on real and generated images, G and N play against D:

    D lowers     (l(clean) + l(noisy)) / 2
    N lowers   - l(noisy) / 2 + power * mean over C, H, W of N(e; theta)^2

Both kinds enter by a coin per image, drawn like all noise: with probability 1/2 the image stays as it is. The mean
over coins of D's loss, of G's loss and of both gradients are those of half a batch clean and half of it noisy, as in
the paper; no image goes through D twice.

N is a small generator from coarse to fine: at every scale from 4 x 4 (or 8 x 8 ...) up it gets as many fresh maps of
white noise as an image has channels, so its output can fill all dimensions of image space,

    h = act(conv([up(h), e_scale])),  ...,  N = 2 tanh(strength conv(h) / 2)

bounded by 2, the width of the range of pixels. N's architecture is this framework's own; the authors' N is a narrow
copy of their generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisegan.api import Field, ImageInjector, ImageSite, NoiseSource, Params, StrategySpec, hookimpl

_COARSEST = 4
"""The smallest map that noise starts from."""
_LIMIT = 2.0
"""Largest noise, in pixels of [-1, 1]."""
_GAIN = 1.68
"""Keeps the second moment of a standard normal under silu: 1 / sqrt(E[silu(x)^2])."""


class FilteringParams(Params):
    power: float = Field(1.0, gt=0, le=1000, description="price of the noise: weight of its mean square")
    strength: float = Field(0.5, ge=0, le=10, description="scale of the noise at the start, in pixels (learned)")
    width: int = Field(16, ge=1, le=256, description="channels of the noise network")


class _Convolution(nn.Module):
    """3 x 3, same size. The weight is kept at the size of one and scaled by 1 / sqrt(fan in) (equalised learning rate,
    Karras et al. 2018), as Adam moves every parameter by about the learning rate."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / (9 * x.shape[1]) ** 0.5, self.bias, padding=1)


class LearnedNoise(ImageInjector):
    """img + coin N(e; theta).

    Learned, and why each starts where it does:

    * `layers.<i>.weight`, one convolution per scale from the coarsest, and `to_image.weight`: standard normal, so every
      map starts with variance near one and noise of all scales is there to be strengthened or given up.
    * the biases start at 0, as is usual.
    * `strength`, [], starts at the parameter (0.5), which gives noise of some 0.35 (zeros beyond the border cost small
      maps a part): plain to see, far from the bound. From there the game with D raises it and its price lowers it.
    """

    trains_with: Literal["against D"] = "against D"

    def __init__(self, site: ImageSite, *, power: float, strength: float, width: int) -> None:
        super().__init__()
        self.channels = site.channels
        self.resolutions = scales(site.resolution)
        self.power = power
        self.layers = nn.ModuleList(
            _Convolution(site.channels + (width if i else 0), width) for i in range(len(self.resolutions))
        )
        self.to_image = _Convolution(width, site.channels)
        self.strength = nn.Parameter(torch.tensor(strength))

    def draw(self, source: NoiseSource) -> Tensor:
        """A uniform number (the coin), then the maps of all scales from the coarsest, [N, 1 + C sum of r^2]."""
        maps = [source.normal(self.channels * r * r) for r in self.resolutions]
        return torch.cat([source.uniform(1), *maps], dim=1)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        coin = (noise[:, 0] < 0.5).to(images.dtype).view(-1, 1, 1, 1)  # [N, 1, 1, 1]; noise switched off leaves images
        return images + coin * self.noise(noise).to(images.dtype)

    def penalty(self, images: Tensor, noise: Tensor) -> Tensor:
        """power * mean over C, H, W of N^2, whatever the coin says, [N]."""
        made = self.noise(noise)
        square = made.to(torch.promote_types(made.dtype, torch.float32)).square()
        return self.power * square.mean(dim=(1, 2, 3))

    def noise(self, noise: Tensor) -> Tensor:
        """N(e; theta), from what was drawn, [N, C, H, W], in the dtype of the parameters."""
        maps = noise[:, 1:].to(self.strength.dtype).split([self.channels * r * r for r in self.resolutions], dim=1)
        h: Tensor | None = None
        for layer, r, e in zip(self.layers, self.resolutions, maps, strict=True):
            e = e.view(-1, self.channels, r, r)
            x = e if h is None else torch.cat((F.interpolate(h, scale_factor=2.0, mode="nearest"), e), dim=1)
            h = _GAIN * F.silu(layer(x))  # [N, width, r, r]
        return _LIMIT * torch.tanh(self.strength / _LIMIT * self.to_image(h))


def scales(resolution: int) -> tuple[int, ...]:
    """Resolutions of the noise network, halved from the image's down to `_COARSEST`, coarsest first."""
    found = [resolution]
    while found[0] % 2 == 0 and found[0] // 2 >= _COARSEST:
        found.insert(0, found[0] // 2)
    return tuple(found)


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="filtering",
            params=FilteringParams,
            summary="distribution filtering: half of the images get noise that is trained against the discriminator",
            reference="Jenni and Favaro 2019 (arXiv:1906.04612), section 3.1",
            identity_at_init=False,
            image=lambda site, p: LearnedNoise(site, power=p.power, strength=p.strength, width=p.width),
        )
    )
