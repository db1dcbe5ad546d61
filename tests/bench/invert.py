"""Inversion: many images at once against a loop over single images, both of the same steps of the same projector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

import noisegan
from bench.measure import interleave
from bench.workload import SIZES
from noisegan.core.config import TrainConfig, networks
from noisegan.core.layers import set_precision, settle
from noisegan.core.state import DTYPES
from noisegan.inversion.losses import make_loss
from noisegan.inversion.projector import Projector, ProjectorOptions
from noisegan.manager import Plugins

BATCH = 16
STEPS = 10
"""Timed at once; a step costs the same whichever it is."""
FULL = 1000
"""Steps of an inversion that images per minute are told for."""
NOISE = "optimised"


def run(
    sizes: Sequence[str],
    *,
    precisions: Sequence[str],
    device: str,
    rounds: int,
    clock: str,
    tell: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """A row per size and precision; both ways take turns within a round."""
    loss = make_loss("st-lpips-alex", torch.device(device))
    for size in sizes:
        for precision in precisions:
            tell(f"{size}: inverting one image and {BATCH}, {precision}")
            G = generator(size, precision, device)
            projector = Projector(G, ProjectorOptions(steps=STEPS, noise=NOISE), loss=loss)
            targets = G(torch.randn(BATCH, G.z_dim, device=device), noise="frozen").clamp(-1, 1)
            times = interleave(
                {"one": lambda p=projector, t=targets: p.run(t[:1]), "many": lambda p=projector, t=targets: p.run(t)},
                rounds=rounds,
                clock=clock,
            )
            minute = {name: 60 * STEPS / FULL / seconds for name, seconds in times.items()}
            yield {
                "size": size,
                "precision": precision,
                "noise": NOISE,
                "one_img_per_min": minute["one"],
                "many_img_per_min": minute["many"] * BATCH,
                "ratio": BATCH * times["one"] / times["many"],
            }


def generator(size: str, precision: str, device: str) -> noisegan.Generator:
    """A generator of a preset with `additive` noise of some strength, as one that was read from a file."""
    options = {"data": "synthetic", "outdir": "unused", "device": "cpu", "precision": precision}
    config = TrainConfig(**(options | SIZES[size])).resolve()
    arguments = networks(config, resolution=config.need("resolution"), img_channels=3, c_dim=0)["G"]
    G = noisegan.Generator(**arguments, noise="additive(strength=0.1)", plugins=Plugins(entry_points=False))
    set_precision(G, DTYPES[precision])
    settle(G, torch.device(device))
    return G.eval().requires_grad_(False)
