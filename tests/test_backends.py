"""Native kernels change how fast a run is, not what it learns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from backends import backend, launches, native_kernels
from training import ALL_POINTS, SMALL, WIDE

import noisegan
from noisegan.api import hookimpl
from noisegan.ext import winograd
from noisegan.manager import Plugins

STEPS = 50


@pytest.fixture(autouse=True)
def _native() -> None:
    native_kernels()


def losses(folder: Path, kind: str, **options: Any) -> list[dict[str, float]]:
    """What each step of a run reports."""
    found: list[dict[str, float]] = []
    plugins = Plugins([ALL_POINTS], entry_points=False)

    def after_step(run: Any, step: Any) -> None:
        found.append(dict(step.losses))

    plugins._pluggy.register(SimpleNamespace(after_step=hookimpl(after_step)), "listener")
    length = {"kimg": STEPS * SMALL["batch"] / 1000, "snap": 1000}
    with backend(kind):
        noisegan.train(outdir=str(folder / kind), plugins=plugins, quiet=True, **(SMALL | length | options))
    return found


# The seeds: rounding grows to more than this within fifty steps in some runs; of 16 wide ones in 4, and with Winograd's
# convolutions in 9 (docs/performance.md).
@pytest.mark.parametrize(
    ("noise", "options"),
    [
        ("additive(strength=0.1)", {}),
        ("fuzzy", {}),
        ("additive(strength=0.1)", WIDE | {"seed": 2}),
        ("fuzzy", WIDE | {"seed": 3}),
    ],
)
def test_fifty_steps_have_the_same_losses_with_either_backend(
    noise: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if options and torch.float32 not in winograd._dtypes():
        pytest.skip("Winograd's convolutions are not used on this processor")
    with launches(monkeypatch) as convolutions:
        native, plain = (losses(tmp_path, kind, noise=noise, **options) for kind in ("native", "ref"))
    assert bool(convolutions) == bool(options)
    assert len(native) == len(plain) == STEPS
    assert {name for step in native for name in step} == {"G", "PL", "D", "R1"}
    for step, (a, b) in enumerate(zip(native, plain, strict=True)):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4), f"step {step}"


def test_a_run_says_which_backend_it_used(tmp_path: Path) -> None:
    for kind, name in (("native", "native"), ("ref", "reference")):
        with backend(kind):
            run = noisegan.train(outdir=str(tmp_path / kind), quiet=True, **(SMALL | {"kimg": 0.008}))
        assert f"operations: {name}" in (run / "log.txt").read_text()
