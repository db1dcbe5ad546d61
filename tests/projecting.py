"""Barely trained networks and random pictures for them: what the tests of `noisegan project` share.

A file of tests takes the fixture over by assignment: `networks = projecting.networks`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training import SMALL

import noisegan

_networks: dict[Any, Path] = {}


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    """A barely trained network per kind of image, trained once in a process for all files that take it."""
    if _networks:
        return _networks
    folder = tmp_path_factory.mktemp("networks")
    made = {}
    for name, channels, noise in ((1, 1, "fuzzy"), (3, 3, "additive(strength=0.3)"), (4, 4, "additive(strength=0.3)")):
        images = np.random.default_rng(0).integers(0, 255, (16, 8, 8, channels), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=images)
        options = SMALL | {"data": folder / f"{name}.npz", "kimg": 0.008, "tick": 0.008, "noise": noise}
        made[name] = noisegan.train(outdir=str(folder / "runs"), quiet=True, **as_config(options))
    _networks.update(made)
    return _networks


def as_config(options: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def picture(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB", seed: int = 0) -> Path:
    """A random picture of (width, height)."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], bands), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[:, :, 0] if bands == 1 else pixels).save(path)
    return path


def png(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))
