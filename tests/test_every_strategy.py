"""Every built-in strategy, and several together, through the commands: train, compare, diagnostics, generate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from comparing import TRAIN, Inline, run_here, small

from noisegan.compare import runner
from noisegan.core.checkpoint import find_snapshot, read_facts, read_tensors
from noisegan.core.config import TrainConfig
from noisegan.core.state import TrainState
from noisegan.manager import Plugins
from noisegan.planning import saved_strategies

PLUGINS = Plugins(entry_points=False)
NAMES = ["none", *sorted(PLUGINS.strategies.keys() - {"none"})]
NOTHING_LEARNED = {"none", "dropout", "instance", "roth"}
VARIANTS = [
    *NAMES,
    "additive + latent_chunks + instance + roth",
    "geodesic(manifold=poincare_ball, sigma=from-features, layers=b8)",
    "coloured(placement=pre-conv) + warp(placement=post-activation)",
    "learned_metric(kind=pullback)",
]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("every") / "out"
    content = small(*VARIANTS, replicates=1, train=TRAIN | {"kimg": 0.016, "tick": 0.008, "snap": 2})
    content["evaluation"] = {"metrics": ["fd"], "extractors": ["pixels"], "samples": 8, "real_samples": 16}
    runner.compare(content, folder, plugins=[Path(__file__).parent / "plugin_scores.py"], executor=Inline(), quiet=True)
    return folder


@pytest.mark.slow
def test_all_are_trained_scored_and_reported(done: Path) -> None:
    results = json.loads((done / "results.json").read_text())
    assert [run["variant"] for run in results["runs"]] == VARIANTS
    assert {run["status"] for run in results["runs"]} == {"done"}
    assert results["pairing"]["paired"] is True
    page = (done / "report" / "index.html").read_text()
    for name in NAMES:
        assert name in page


@pytest.mark.slow
def test_each_moves_what_it_learns(done: Path) -> None:
    """Of every variant and each strategy in it, something in the last snapshot is not what the same run starts with."""
    moved = set()
    for run in (path for path in (done / "runs").iterdir() if path.is_dir()):
        snapshot = find_snapshot(run)
        facts = read_facts(snapshot)
        strategies = saved_strategies(run, facts, PLUGINS)
        config = TrainConfig(outdir="", **facts["config"])
        state = TrainState(config, facts["networks"], strategies, data="", device=torch.device("cpu"))
        learned = {id(p) for injector in state.injectors() for p in injector.parameters()}
        named = {name: p for side in state.named.values() for name, p in side.items() if id(p) in learned}
        end = read_tensors(snapshot)
        for strategy in strategies:
            own = [name for name in named if strategy.name in name.split(".")]
            assert bool(own) == (strategy.name not in NOTHING_LEARNED), strategy
            if own:
                assert any(not torch.equal(named[name], end[name]) for name in own), f"{run.name}: {strategy}"
                moved.add(strategy.name)
    assert moved == set(NAMES) - NOTHING_LEARNED
    assert len(moved) >= 11


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["frozen", "off", "fresh"])
def test_each_makes_images(done: Path, tmp_path: Path, mode: str) -> None:
    runs = sorted(path for path in (done / "runs").iterdir() if path.is_dir())
    assert len(runs) == len(VARIANTS)
    for run in runs:
        words = ["generate", "--network", str(find_snapshot(run)), "--seeds", "0-1", "--noise-mode", mode]
        assert run_here(*words, "--outdir", str(tmp_path / run.name)) == 0
        assert len(list((tmp_path / run.name).glob("seed*.png"))) == 2
