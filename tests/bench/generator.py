"""What a strategy costs the generator: forward and backward, drawing included, relative to `none`.

All strategies take turns in one process. Gradients are those of a plain sum of squares of the images, by every
parameter: the generator's share of its own training phase, without the discriminator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from bench.measure import interleave
from bench.workload import SIZES, batch_of
from noisegan.core.config import TrainConfig, networks
from noisegan.core.generator import Generator
from noisegan.core.layers import set_precision, settle
from noisegan.core.noise import StreamNoise
from noisegan.core.rng import Streams
from noisegan.core.state import DTYPES
from noisegan.manager import Plugins

VARIANTS = (
    "additive(per_channel=true)",
    "additive(placement=pre-conv)",
    "additive(placement=post-activation)",
    "additive(placement=inside-style)",
    "fuzzy(form=additive)",
    "geodesic(noise=shared)",
    "geodesic(manifold=poincare_ball)",
    "geodesic(manifold=poincare_ball, noise=shared)",
    "geodesic(manifold=spd_affine)",
    "geodesic(manifold=euclidean, noise=isotropic)",
    "learned_metric(kind=diagonal)",
    "learned_metric(kind=low-rank)",
    "learned_metric(kind=pullback)",
)
"""Timed beside every built-in strategy that acts in the generator with its default parameters."""


def expressions(plugins: Plugins) -> list[str]:
    """`none` first, then the built-in strategies of the generator by name, and `VARIANTS`."""
    names = [name for name, (spec, _) in plugins.strategies.items() if spec.where_parameters]
    return ["none", *sorted(({*names} - {"none"}) | set(VARIANTS))]


def run(
    sizes: Sequence[str],
    *,
    precisions: Sequence[str],
    device: str,
    rounds: int,
    clock: str,
    tell: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """A row per size, precision and strategy: seconds, and how many times those of `none`."""
    plugins = Plugins(entry_points=False)
    for size in sizes:
        for precision in precisions:
            tell(f"{size}: a generator per strategy, {precision}, {rounds} rounds")
            calls = {text: _call(size, precision, text, plugins, device) for text in expressions(plugins)}
            seconds = interleave(calls, rounds=rounds, clock=clock)
            for text, value in seconds.items():
                yield {
                    "size": size,
                    "precision": precision,
                    "strategy": text,
                    "batch": batch_of(size),
                    "generator_s": value,
                    "to_none": value / seconds["none"],
                }


def _call(size: str, precision: str, expression: str, plugins: Plugins, device: str) -> Callable[[], None]:
    config = TrainConfig(data="synthetic", outdir="unused", noise=expression, **SIZES[size]).resolve()
    arguments = networks(config, resolution=config.need("resolution"), img_channels=3, c_dim=0)["G"]
    G = Generator(**arguments, noise=plugins.parse(expression))
    set_precision(G, DTYPES[precision])
    settle(G, torch.device(device))
    batch, streams = config.need("batch"), Streams(0)
    z = streams["z"].source(ids=range(batch), device=device).normal(G.z_dim)
    step = iter(range(2**31))

    def call() -> None:
        G.zero_grad(set_to_none=True)
        images = G(z, noise=StreamNoise(streams, ids=range(batch), step=next(step)))
        images.square().sum().backward()

    return call
