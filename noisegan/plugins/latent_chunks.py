"""`latent_chunks`: BigGAN's hierarchical latent, a piece of z for every site: style_i = affine([w, c_i]).

Brock, Donahue, Simonyan, "Large scale GAN training for high fidelity natural image synthesis", 2019, section 3.1 and
appendix B: z is split into chunks of equal size, one for each block, where it is concatenated with the class embedding
and projected to the gains of the layer. Here the layer is a site of StyleGAN2, its gains are the style, and w, which
knows the class already, stands where the embedding stood:

    style_i = A w + B c_i + b,   c_i ~ N(0, I) [N, chunk]

A and b are the site's own affine. The first chunk of BigGAN's z enters at the bottom; here that is z, which makes w.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from noisegan.api import Field, NoiseSite, NoiseSource, Params, StrategySpec, StyleInjector, hookimpl


class LatentChunksParams(Params):
    chunk: int = Field(20, ge=1, le=512, description="numbers per site; BigGAN has 20")


class LatentChunk(StyleInjector):
    """style + B c.

    Learned: `weight`, [in_channels, chunk], starts at N(0, 1) and is used as B = weight / sqrt(D + chunk): equalised
    learning rate, with the fan-in of an affine layer over [w, c], of which B is the last columns. (A is the first, but
    keeps its 1 / sqrt(D): without chunks the site is that of StyleGAN2.) So B c starts with variance
    chunk / (D + chunk), beside a style of about one: chunks are in use from the start, as in BigGAN.
    """

    def __init__(self, site: NoiseSite, *, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.gain = 1 / math.sqrt(site.w_dim + chunk)
        self.weight = nn.Parameter(torch.randn(site.in_channels, chunk))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(self.chunk)  # [N, chunk]

    def forward(self, style: Tensor, noise: Tensor) -> Tensor:
        weight = (self.weight * self.gain).to(style.dtype)
        return style + noise @ weight.T  # [N, in_channels]


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="latent_chunks",
            params=LatentChunksParams,
            summary="BigGAN's hierarchical latent: each site's style also depends on a chunk of its own",
            reference="Brock, Donahue, Simonyan 2019 (arXiv:1809.11096), section 3.1 and appendix B",
            identity_at_init=False,
            style=lambda site, p: LatentChunk(site, chunk=p.chunk),
        )
    )
