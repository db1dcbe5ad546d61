"""What the tests of feature strategies share: one site, its injector in float64, inputs, and noise."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noisegan.api import FeatureInjector, NoiseSite
from noisegan.core.rng import Streams
from noisegan.manager import Plugins

Array = NDArray[np.float64]
R, C, N = 8, 5, 3


def normal(name: str, n: int, *shape: int) -> Tensor:
    return Streams(8)[name].source(ids=range(n)).normal(*shape).double()


X, W = normal("x", N, C, R, R), normal("w", N, 4)


def injector(
    plugins: Plugins, expression: str, *, moved: float = 0, resolution: int = R, channels: int = C
) -> FeatureInjector:
    """The injector of one site in float64; `moved`: how far every parameter is off its start."""
    (strategy,) = plugins.parse(expression)
    assert strategy.spec.feature is not None
    site = NoiseSite(
        index=1,
        num_sites=3,
        name="site",
        resolution=resolution,
        channels=channels,
        in_channels=channels,
        w_dim=4,
        upsampled=False,
    )
    module = strategy.spec.feature(site, strategy.params).double()
    for name, p in module.named_parameters():
        with torch.no_grad():
            p += moved * normal(f"move/{name}", 1, *p.shape)[0]
    return module


def drawn(module: FeatureInjector, n: int = N) -> Tensor:
    return module.draw(Streams(8)["e"].source(ids=range(n))).double()


def values(module: FeatureInjector) -> dict[str, Array]:
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def output(module: FeatureInjector, x: Tensor, e: Tensor) -> Array:
    return module(x, e, W).detach().numpy()
