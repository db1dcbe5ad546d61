"""`coloured`: noise with a power-law spectrum, out = m + r y, whose exponent is learned.

y is white noise filtered so that its power at frequency f is proportional to 1 / f^alpha, and scaled to unit variance:

    f(k)  = |k|, k = (ky, kx) in cycles per map;  f(0) = 1               [H, W]
    g(k)  = f^(-alpha / 2) / sqrt(mean over k of f^(-alpha))             [H, W]
    y     = inverse FFT of g(k) * FFT of e,  e ~ N(0, I)                 [N, 1, H, W]

alpha = 0 is white noise (then this is `additive`), 1 pink, 2 the spectrum of natural images (Field 1987), negative
values are blue. FFTs of white noise shaped by a power law: Timmer and Koenig 1995.

At f = 0 the law has no value. The mean of the map is treated as the lowest frequency, one cycle per map: with alpha = 0
every coefficient then has weight one, and no exponent makes the mean take all the power.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noisegan.api import FeatureInjector, Field, NoiseSite, NoiseSource, Params, StrategySpec, hookimpl


class ColouredParams(Params):
    exponent: float = Field(1.0, ge=-4, le=4, description="alpha of 1/f^alpha at the start: 0 white, 1 pink (learned)")
    strength: float = Field(0.0, ge=-10, le=10, description="strength r at the start (learned)")


class ColouredNoise(FeatureInjector):
    """out = m + r y(e, alpha).

    Learned, and why each starts where it does:

    * `strength`, r, [], starts at 0: no noise until the network asks for it. y has unit variance whatever alpha is, so
      r is the standard deviation of the noise, in units of the demodulated map, and does not compete with alpha.
    * `exponent`, alpha, [], starts at the parameter (1), between white noise and natural images. Its gradient is
      r dy/dalpha: none in the first step, some as soon as r has left 0.
    """

    squared_frequency: Tensor

    def __init__(self, site: NoiseSite, *, exponent: float, strength: float) -> None:
        super().__init__()
        self.resolution = site.resolution
        self.strength = nn.Parameter(torch.tensor(strength))
        self.exponent = nn.Parameter(torch.tensor(exponent))
        k = torch.fft.fftfreq(site.resolution, d=1 / site.resolution).round()  # whole cycles per map
        squares = k[:, None].square() + k.square()  # [H, W]
        # Squares are whole numbers, exact in float32, so float64 models lose nothing; see `colour` for the rest.
        self.register_buffer("squared_frequency", squares.clamp(min=1), persistent=False)

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(1, self.resolution, self.resolution)  # [N, 1, H, W]

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + (self.strength * self.colour(noise)).to(x.dtype)

    def added(self, noise: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        return [(self.colour(noise), self.strength)]

    def colour(self, noise: Tensor) -> Tensor:
        """y of the formula, [N, 1, H, W], in float32 at least: FFTs do not know 16 bits."""
        dtype = torch.promote_types(noise.dtype, torch.float32)
        log_gain = -self.exponent.to(dtype) / 4 * self.squared_frequency.to(dtype).log()  # [H, W]
        gain = torch.exp(log_gain - log_gain.detach().amax())  # a common factor, which cancels; so no power overflows
        gain = gain / gain.square().mean().sqrt()
        size = self.resolution
        spectrum = torch.fft.rfft2(noise.to(dtype)) * gain[:, : size // 2 + 1]  # [N, 1, H, W / 2 + 1]
        y: Tensor = torch.fft.irfft2(spectrum, s=(size, size))
        return y


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="coloured",
            params=ColouredParams,
            summary="additive noise with a power-law spectrum whose exponent is learned",
            reference="Timmer, Koenig 1995 (On generating power law noise); Field 1987 for natural images",
            identity_at_init=True,
            feature=lambda site, p: ColouredNoise(site, exponent=p.exponent, strength=p.strength),
        )
    )
