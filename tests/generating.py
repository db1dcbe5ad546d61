"""Small generators with each kind of noise, and latents for them: what the tests of the generator share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from toys import ToyLatent, ToyParams, toy

from noisegan.api import Strategy
from noisegan.core.generator import Generator
from noisegan.core.rng import Streams
from noisegan.manager import Plugins

SMALL = {"z_dim": 8, "w_dim": 6, "mapping_layers": 2, "channel_base": 64, "channel_max": 6}
LATENT = Strategy(toy(latent=lambda site, p: ToyLatent(site)), ToyParams())
COMBINATIONS = ("none", "additive(strength=0.3)", "fuzzy", "additive(strength=0.3) + fuzzy", "toy")


def strategies(plugins: Plugins, expression: str) -> tuple[Strategy, ...]:
    return (LATENT,) if expression == "toy" else plugins.parse(expression)


def generator(plugins: Plugins, expression: str = "additive(strength=0.3)", **options: Any) -> Generator:
    return Generator(**{"resolution": 16, **SMALL, **options}, noise=strategies(plugins, expression))


def latents(n: int, z_dim: int = 8) -> Tensor:
    return Streams(1)["z"].source(ids=range(n)).normal(z_dim)


def moved_off_start(network: torch.nn.Module, seed: int = 9) -> None:
    """Every parameter a little elsewhere, so that none hides behind a start at 0 or 1."""
    for name, p in network.named_parameters():
        with torch.no_grad():
            p += 0.2 * Streams(seed)[name].source(ids=[0]).normal(*p.shape)[0]
