"""noisegan: swap the way noise enters a StyleGAN2, change nothing else, and get an answer you can trust.

    config = noisegan.TrainConfig(data="digits", outdir="runs", noise="fuzzy", kimg=1)
    run = noisegan.train(config)                        # the folder of the run
    G = noisegan.load(run).G_ema                        # the averaged generator
    images = G(z, noise="frozen")                       # [N, C, H, W], about [-1, 1]
    results = noisegan.compare("experiment.toml", "out")

Names are imported when first used, so that `import noisegan.api` in a plugin stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noisegan.compare.experiment import Experiment
    from noisegan.compare.runner import compare
    from noisegan.core.config import TrainConfig
    from noisegan.core.discriminator import Discriminator
    from noisegan.errors import NoiseganError
    from noisegan.facade import Generator, load, train

__version__ = "0.1.0"
__all__ = [
    "Discriminator",
    "Experiment",
    "Generator",
    "NoiseganError",
    "TrainConfig",
    "__version__",
    "compare",
    "load",
    "train",
]

_HOME = {
    "Discriminator": "noisegan.core.discriminator",
    "Experiment": "noisegan.compare.experiment",
    "Generator": "noisegan.facade",
    "NoiseganError": "noisegan.errors",
    "TrainConfig": "noisegan.core.config",
    "compare": "noisegan.compare.runner",
    "load": "noisegan.facade",
    "train": "noisegan.facade",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'noisegan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
