"""The plugin keeps the contract, found by file as `--plugin` finds it, installed or not."""

from pathlib import Path

import noisegan_style_gate
import pytest
import torch

from noisegan.api import NoiseSite
from noisegan.manager import Plugins
from noisegan.testing import strategy_checks

PLUGINS = Plugins([Path(noisegan_style_gate.__file__)], entry_points=False)


@pytest.mark.parametrize("check", strategy_checks(PLUGINS.parse("style_gate")[0]))
def test_conforms(check):
    check()


def test_a_shut_gate_keeps_noise_out():
    site = NoiseSite(
        index=0, num_sites=1, name="b4.conv1", resolution=4, channels=2, in_channels=2, w_dim=3, upsampled=False
    )
    injector = noisegan_style_gate.StyleGateNoise(site, strength=1.0, openness=-10.0)
    x, noise, w = torch.ones(1, 2, 4, 4), torch.ones(1, 1, 4, 4), torch.zeros(1, 3)
    assert torch.allclose(injector(x, noise, w), x, atol=1e-4)
