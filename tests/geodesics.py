"""What tests of noise on manifolds share: one site, its injector in float64, and textbook formulas, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from noisegan.api import FeatureInjector, NoiseSite
from noisegan.core.generator import Generator
from noisegan.core.rng import Streams
from noisegan.manager import Plugins

Array = NDArray[np.float64]
R, C, N = 4, 7, 2
SITE = NoiseSite(
    index=1, num_sites=3, name="b4.conv1", resolution=R, channels=C, in_channels=C, w_dim=4, upsampled=False
)


def normal(name: str, *shape: int) -> Tensor:
    return Streams(5)[name].source(ids=range(N)).normal(*shape).double()


X, W = normal("x", C, R, R), normal("w", 4)


def injector(plugins: Plugins, expression: str, moved: bool = False, site: NoiseSite = SITE) -> FeatureInjector:
    """The injector of one site in float64; `moved`: every parameter a little off its start."""
    (strategy,) = plugins.parse(expression)
    assert strategy.spec.feature is not None
    module = strategy.spec.feature(site, strategy.params).double()
    if moved:
        for name, p in module.named_parameters():
            p.data += 0.3 * Streams(2)[name].source(ids=[0]).normal(*p.shape)[0]
    return module


def drawn(module: FeatureInjector) -> Tensor:
    return module.draw(Streams(3)["noise"].source(ids=range(N))).double()


def by_pixel(m: Array, e: Array, move: Callable[[Array, Array], Array], group: int) -> Array:
    """`move` of each group of channels of each pixel; m and e [N, C, H, W]; channels left over: m + e."""
    out = m + e
    for n, h, w in np.ndindex(m.shape[0], *m.shape[2:]):
        for start in range(0, m.shape[1] - group + 1, group):
            own = slice(start, start + group)
            out[n, own, h, w] = move(m[n, own, h, w], e[n, own, h, w])
    return out


def held(v: Array, length: float, rho: float) -> Array:
    return v * (rho * np.tanh(length / rho) / length)


def drawn_in(m: Array, far: float) -> float:
    return float((1 + (np.linalg.norm(m) / far) ** 8) ** (-1 / 8))


def mobius(x: Array, y: Array) -> Array:
    xy, xx, yy = x @ y, x @ x, y @ y
    return np.asarray(((1 + 2 * xy + yy) * x + (1 - xx) * y) / (1 + 2 * xy + xx * yy))


def ball(m: Array, e: Array, radius: float = 0.99) -> Array:
    """Exp_x(v) is the Moebius sum of x and tanh(lambda |v| / 2) v / |v|, lambda = 2 / (1 - |x|^2)."""
    unit = np.sqrt(len(m))
    m, xi = m / unit, e / unit
    c = drawn_in(m, 6)
    m = c * m
    xi = held(xi, float(np.linalg.norm(xi)), radius * 6)
    x = np.tanh(np.linalg.norm(m) / 2) * m / np.linalg.norm(m)
    half = np.linalg.norm(xi) / 2  # lambda |v| / 2, as |xi| is the length of v in the metric
    y = mobius(x, np.tanh(half) * xi / np.linalg.norm(xi))
    return np.asarray(2 * np.arctanh(np.linalg.norm(y)) * y / np.linalg.norm(y) * unit / c)


def small_generator(plugins: Plugins, noise: str) -> Generator:
    return Generator(
        resolution=8, z_dim=4, w_dim=4, mapping_layers=1, channel_base=32, channel_max=4, noise=plugins.parse(noise)
    )
