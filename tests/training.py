"""What the training tests share: the smallest run there is, and bitwise comparison of snapshots."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from forking import PATIENCE_S
from safetensors.torch import load_file

TESTS = Path(__file__).parent
ALL_POINTS = TESTS / "plugin_all_points.py"
STRATEGIES = (
    "none",
    "additive",
    "additive(per_channel=true, strength=0.1)",
    "fuzzy",
    "fuzzy(form=additive)",
    "additive(strength=0.1) + fuzzy",
    "all_points",
)

SMALL: dict[str, Any] = {
    "data": "digits", "resolution": 8, "cbase": 64, "cmax": 8, "z_dim": 8, "w_dim": 8, "map_depth": 2,
    "batch": 8, "kimg": 0.16, "tick": 0.04, "snap": 1, "seed": 1, "device": "cpu",
}  # fmt: skip
"""Twenty steps of eight 8 x 8 digits; reports and snapshots every five."""
WIDE: dict[str, Any] = {"cbase": 512, "cmax": 32}
"""Beside these: wide enough for Winograd's convolutions."""


def as_arguments(options: dict[str, Any]) -> list[str]:
    """Options as the command line takes them."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def started(*arguments: str, timeout_s: float = PATIENCE_S, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a Python of its own, one thread. `forking.run` does it in a fraction of the time."""
    return subprocess.run(
        [sys.executable, "-m", "noisegan", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


def assert_same_snapshot(a: Path, b: Path) -> None:
    """Equal to the last bit: every tensor, and the file as a whole."""
    left, right = load_file(a), load_file(b)
    assert left.keys() == right.keys()
    assert any(name.startswith("opt_G/") for name in left)
    assert any(name.startswith("G_ema.") for name in left)
    for name in left:
        assert torch.equal(
            left[name].view(torch.uint8).flatten() if left[name].ndim else left[name],
            (right[name].view(torch.uint8).flatten() if right[name].ndim else right[name]),
        ), name
    assert a.read_bytes() == b.read_bytes()


def snapshot_names(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("*.safetensors"))
