"""Inversion with the defaults finds the images of a trained network again, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_inversion import samples
from training import SMALL

import noisegan
from noisegan.inversion.losses import make_loss
from noisegan.inversion.projector import ProjectorOptions, invert
from noisegan.inversion.spaces import w_statistics


@pytest.mark.slow
def test_a_trained_networks_own_images_are_found_again_with_the_defaults(tmp_path: Path) -> None:
    """Default loss and optimised noise, neither w nor noise known: below 0.006 each, a tenth of the mean image's."""
    options = SMALL | {"kimg": 1, "tick": 1}
    network = noisegan.train(outdir=str(tmp_path / "runs"), quiet=True, noise="additive(strength=0.1)", **options)
    G = noisegan.load(network, device="cpu").G_ema
    targets, _, noise = samples(G, 4)
    distance = make_loss("st-lpips-alex", torch.device("cpu"))
    mean = G.synthesis(w_statistics(G).mean.expand(4, G.num_ws, -1), noise)
    start = float(distance(mean, distance.prepare(targets))["st-lpips-alex"].mean())
    found = [one.final["st-lpips-alex"] for one in invert(G, targets, ProjectorOptions(steps=150))]
    assert max(found) < 0.006
    assert float(np.mean(found)) < 0.1 * start
    strange = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (1, 1, 8, 8))).float()
    assert invert(G, strange, ProjectorOptions(steps=50))[0].final["st-lpips-alex"] > 0.03
