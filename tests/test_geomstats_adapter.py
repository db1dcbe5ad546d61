"""geomstats through the guard: its import leaves no trace."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from noisegan.plugins.geometry.geomstats import import_geomstats

TRACELESS = """
import logging, os, random, sys, warnings
import numpy as np, torch
from noisegan.plugins.geometry.geomstats import import_geomstats

def state():
    root = logging.getLogger()
    return (
        torch.get_default_dtype(), root.level, list(root.handlers), os.environ.get("GEOMSTATS_BACKEND"),
        hasattr(np, "trapz"), torch.random.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(),
        torch.get_num_threads(), list(warnings.filters),
    )

before = state()
backend = import_geomstats()
after = state()
for one, other in zip(before, after, strict=True):
    assert one == other, (one, other)
assert backend.__name__.endswith("pytorch") and import_geomstats() is backend
from geomstats.geometry.hypersphere import Hypersphere
assert Hypersphere(2).random_point().dtype == torch.float32
"""

OTHER_BACKEND = """
import numpy as np
if not hasattr(np, "trapz"):
    np.trapz = np.trapezoid
import geomstats.backend
from noisegan.plugins.geometry.geomstats import import_geomstats
try:
    import_geomstats()
except Exception as error:
    print(type(error).__name__, error)
"""

MISSING = """
import sys
sys.modules["geomstats"] = None
from noisegan.plugins.geometry.geomstats import import_geomstats
try:
    import_geomstats()
except Exception as error:
    print(type(error).__name__, error)
"""


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("chosen", [{}, {"GEOMSTATS_BACKEND": "numpy"}])
def test_the_import_leaves_no_trace(chosen: dict[str, str]) -> None:
    run(TRACELESS, PYTHONWARNINGS="error", **chosen)


def test_another_backend_is_refused() -> None:
    assert run(OTHER_BACKEND, GEOMSTATS_BACKEND="numpy") == (
        "NoiseganError geomstats was already imported with its numpy backend and cannot change it; "
        "set the environment variable GEOMSTATS_BACKEND=pytorch before anything imports geomstats"
    )


def test_a_missing_package_is_one_sentence() -> None:
    assert run(MISSING) == (
        "NoiseganError the package geomstats is not installed; install it with `pip install geomstats>=2.8`"
    )


def test_it_can_be_asked_again() -> None:
    assert import_geomstats() is import_geomstats()
