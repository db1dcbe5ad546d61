"""The manifold keeps the promises of the check kit, and strategies take it by name."""

import math
from pathlib import Path

import noisegan_cylinder
import pytest
import torch

from noisegan.manager import Plugins
from noisegan.plugins.geometry import manifold
from noisegan.plugins.geometry.checking import manifold_checks
from noisegan.testing import strategy_checks

PLUGINS = Plugins([Path(noisegan_cylinder.__file__)], entry_points=False)


@pytest.mark.parametrize("check", manifold_checks(noisegan_cylinder.Cylinder(dim=3)))
def test_keeps_its_promises(check):
    check()


@pytest.mark.parametrize("check", strategy_checks(PLUGINS.parse("geodesic(manifold=cylinder, group=3)")[0]))
def test_geodesic_takes_it(check):
    check()


def test_geodesics_are_helices():
    cylinder = manifold("cylinder", dim=2)
    start, velocity = torch.tensor([1.0, 0.0, 5.0]), torch.tensor([0.0, math.pi / 2, 3.0])
    assert torch.allclose(cylinder.exp(start, velocity), torch.tensor([0.0, 1.0, 8.0]), atol=1e-6)
