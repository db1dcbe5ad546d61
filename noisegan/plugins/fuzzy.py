"""`fuzzy`: fuzzy reparameterization, noise whose strength per pixel follows the feature map.

Feng, Zhao, Zha, "Understanding Noise Injection in GANs", ICML 2021 (at ICLR 2021 "On Noise Injection in GANs"),
geometric realisation:

    mu~   = sum over channels of m                              [N, 1, H, W]
    s     = (mu~ - mean mu~) / max |mu~ - mean mu~|              per sample, in [-1, 1]
    s_d   = A * s + b                                           A, b learned, elementwise
    s'    = alpha s_d + (1 - alpha) 1
    sigma = s' / ||s'||_2                                       norm over H x W, per sample
    scaled:    out = r sigma * (m + e)
    additive:  out = m + r sigma * e                            the general form g = mu(x) + sigma(x) e

e ~ N(0, I), one map per sample as in StyleGAN2, broadcast over channels.

Demodulated features have unit variance, so `scaled` fixes the signal-to-noise ratio near one at every pixel, whatever
r is: r sigma multiplies signal and noise alike. `additive` can learn to leave the signal alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noisegan.api import FeatureInjector, Field, NoiseSite, NoiseSource, Params, StrategySpec, hookimpl
from noisegan.plugins.semantic import semantic_map


class FuzzyParams(Params):
    form: Literal["scaled", "additive"] = Field("scaled", description="out = r sigma (m + e), or m + r sigma e")
    alpha: float = Field(0.5, ge=0, le=1, description="share of the feature-dependent map at the start (learned)")
    gain: float = Field(
        1.0,
        ge=-10,
        le=10,
        description="r at the start in units of sqrt(H W), that is the mean of r sigma (learned)",
    )


class FuzzyNoise(FeatureInjector):
    """One site of fuzzy reparameterization.

    Learned, and why each starts where it does:

    * `scale`, A, [H, W], starts at 1: the map s enters undistorted.
    * `shift`, b, [H, W], starts at 1: s_d = s + 1 lies in [0, 2], so sigma starts non-negative with mean near one.
    * `alpha`, [], starts at the parameter (0.5): half feature map, half uniform, so that neither A nor b is without
      gradient and no pixel starts at zero strength.
    * `strength`, r / sqrt(H W), [], starts at the gain (1), so r starts at sqrt(H W): sigma has unit norm, hence size
      1 / sqrt(H W), and r sigma starts near the gain. With `form=additive` that is noise of the size of the features.
      The parameter is kept at the size of one (equalised learning rate, Karras et al. 2018): Adam moves every parameter
      by about the learning rate, and an r of 32 would stay where it is.
    """

    def __init__(self, site: NoiseSite, *, form: Literal["scaled", "additive"], alpha: float, gain: float) -> None:
        super().__init__()
        self.resolution = site.resolution
        self.form = form
        self.scale = nn.Parameter(torch.ones(site.resolution, site.resolution))
        self.shift = nn.Parameter(torch.ones(site.resolution, site.resolution))
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.strength = nn.Parameter(torch.tensor(gain))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(1, self.resolution, self.resolution)  # [N, 1, H, W]

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        r = self.strength * self.resolution  # sqrt(H W) = resolution
        sigma = (r * self.sigma(x)).to(x.dtype)  # r sigma, [N, 1, H, W]
        if self.form == "scaled":
            return sigma * (x + noise)
        return x + sigma * noise

    def sigma(self, x: Tensor) -> Tensor:
        """The map of unit norm, [N, C, H, W] -> [N, 1, H, W], in float32 at least."""
        return semantic_map(x, self.scale, self.shift, self.alpha)


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="fuzzy",
            params=FuzzyParams,
            summary="fuzzy reparameterization: noise strength per pixel follows the feature map",
            reference="Feng, Zhao, Zha, Understanding Noise Injection in GANs, ICML 2021 (arXiv:2006.05891)",
            identity_at_init=False,
            feature=lambda site, p: FuzzyNoise(site, form=p.form, alpha=p.alpha, gain=p.gain),
        )
    )
