"""Does a strategy work in a whole generator, under path-length regularisation, in every noise mode?"""

from __future__ import annotations

import torch

from noisegan.api import Strategy
from noisegan.core.generator import Generator
from noisegan.core.losses import path_lengths
from noisegan.core.noise import StreamNoise
from noisegan.core.rng import Streams
from noisegan.testing.registry import check, require, same_bits, where


@check("strategy")
def works_in_a_generator(strategy: Strategy) -> None:
    """In a generator, images are finite in every noise mode, are made from the given noise, and train twice over."""
    with where("building a generator with it"):
        G = Generator(
            resolution=8, z_dim=4, w_dim=4, mapping_layers=1, channel_base=32, channel_max=4, noise=(strategy,)
        )
    streams = Streams(1)
    z = streams["z"].source(ids=range(2)).normal(4)
    with where("making images"):
        for mode in ("fresh", "frozen", "off"):
            require(bool(G(z, noise=mode).isfinite().all()), f"images with noise {mode} are not finite")
        given = G.draw_noise(StreamNoise(streams, ids=range(2)), 2)
        ws = G.styles(z)
        images = G.synthesis(ws, given)
        G.draw_noise(StreamNoise(streams, ids=range(2), step=1), 2)
        require(
            same_bits(images, G.synthesis(ws, given)),
            "the same given noise made other images after another draw; forward must use the noise it is handed",
        )
    with where("the path-length penalty (second derivatives)"):
        lengths = path_lengths(images, ws, streams["direction"].source(ids=range(2)).normal(*images.shape[1:]))
        torch.autograd.backward(lengths.sum())
    for name, parameter in G.named_parameters():
        finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
        require(finite, f"the gradient of the path length with respect to {name} is not finite")
