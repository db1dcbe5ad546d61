"""`instance`: instance noise, white noise on every image that the discriminator sees.

    D sees img + s(t) u e,   e ~ N(0, I), [N, C, H, W], for real and generated images alike

Soenderby et al. 2017, "Amortised MAP Inference for Image Super-resolution" (appendix on instance noise); Arjovsky and
Bottou 2017, "Towards Principled Methods for Training Generative Adversarial Networks", section 3. Noise on both gives
the two distributions a common support, so their divergence and D's optimum exist; D's best answer to equal
distributions stays the same. s is annealed, as the blurred distributions being equal is easier than the sharp ones
being equal only in degree.

    unit=pixel:     u = 1, so s is in units of pixels in [-1, 1]
    unit=data:      u = standard deviation of the data set's pixels, over all of them and all channels
    unit=contrast:  u = sqrt(mean over C, H, W of (img - mean img)^2 + (2 / 255)^2), per image

`data` matches the variance of the noise to that of the data: s is a noise-to-signal ratio, the same for pale and for
bold data, and u one constant for real and generated images (`ImageSite.deviation`). `contrast` matches it to each
image's own; a flat image gets noise as if its spread were one grey level of 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from noisegan.api import Field, ImageInjector, ImageSite, NoiseSource, StrategySpec, hookimpl
from noisegan.plugins.schedules import AnnealedParams, Annealing

_GREY_LEVEL = 2 / 255
"""One grey level of 8 bits, in pixels of [-1, 1]."""

Unit = Literal["pixel", "data", "contrast"]


class InstanceParams(AnnealedParams):
    start: float = Field(0.1, ge=0, le=10, description="standard deviation s of the noise at the start")
    end: float = Field(0.0, ge=0, le=10, description="s from `until` on; at 0 images are as they are")
    unit: Unit = Field(
        "pixel", description="of s: pixels in [-1, 1], the data's standard deviation, or each image's own contrast"
    )


class InstanceNoise(ImageInjector):
    """Nothing is learned. The buffer `strength`, [], s u (for `contrast` s alone), changes in `set_progress` only."""

    def __init__(self, site: ImageSite, *, annealing: Annealing, unit: Unit) -> None:
        super().__init__()
        self.shape = (site.channels, site.resolution, site.resolution)
        self.annealing = annealing
        self.unit = unit
        self.scale = site.deviation if unit == "data" else 1.0
        self.register_buffer("strength", torch.tensor(self.scale * annealing(0.0)))
        self.strength: Tensor

    def set_progress(self, fraction: float) -> None:
        self.strength.fill_(self.scale * self.annealing(fraction))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(*self.shape)  # [N, C, H, W]

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        strength = self.strength
        if self.unit == "contrast":
            strength = strength * contrast(images)  # [N, 1, 1, 1]
        return images + (strength * noise).to(images.dtype)


def contrast(images: Tensor) -> Tensor:
    """Spread of each image about its mean, [N, C, H, W] -> [N, 1, 1, 1]; in float32 at least, and never zero."""
    x = images.to(torch.promote_types(images.dtype, torch.float32))
    deviation = x - x.mean(dim=(1, 2, 3), keepdim=True)
    return torch.sqrt(deviation.square().mean(dim=(1, 2, 3), keepdim=True) + _GREY_LEVEL**2)


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="instance",
            params=InstanceParams,
            summary="instance noise: annealed white noise on the images that the discriminator sees",
            reference="Soenderby et al. 2017 (arXiv:1610.04490); Arjovsky and Bottou 2017 (arXiv:1701.04862)",
            identity_at_init=False,
            image=lambda site, p: InstanceNoise(site, annealing=p.annealing(), unit=p.unit),
        )
    )
