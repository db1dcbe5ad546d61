"""Two processes on one machine: the same losses as one, and no hang when one of them fails."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import forking
import pytest
import torch
from safetensors.torch import load_file
from training import ALL_POINTS, SMALL, as_arguments

from noisegan.core.checkpoint import find_snapshot
from noisegan.core.distributed import pick_device
from noisegan.core.rng import Streams

OPTIONS = SMALL | {"kimg": 0.08, "tick": 0.04, "noise": "all_points"}


def torchrun(*arguments: str, plugin: Path = ALL_POINTS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "noisegan",
         "train", "--plugin", str(plugin), *arguments],
        capture_output=True, text=True, timeout=forking.PATIENCE_S, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def two_ranks(*arguments: str, plugin: Path = ALL_POINTS) -> list[tuple[int | None, str]]:
    """Two processes as torchrun makes them, without it; status and standard error of each."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    processes = [
        forking.Forked("train", "--plugin", str(plugin), *arguments, **world, RANK=rank, LOCAL_RANK=rank)
        for rank in ("0", "1")
    ]
    errors = [process.communicate(timeout=forking.PATIENCE_S)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def stats(outdir: Path) -> list[dict[str, Any]]:
    (run,) = outdir.iterdir()
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """Losses, statistics, learned noise and pairing agree; weights to float rounding."""
    two = torchrun(*as_arguments(OPTIONS), "--outdir", str(tmp_path / "two"))
    assert two.returncode == 0, two.stderr
    one = forking.run("train", "--plugin", str(ALL_POINTS), *as_arguments(OPTIONS), "--outdir", str(tmp_path / "one"))
    assert one.returncode == 0, one.stderr
    lines = list(zip(stats(tmp_path / "one"), stats(tmp_path / "two"), strict=True))
    assert len(lines) == 2
    for a, b in lines:
        assert a.keys() == b.keys()
        for name in a:
            if name.startswith(("Loss/", "Noise/")):
                assert a[name]["num"] == b[name]["num"], name
                assert a[name]["mean"] == pytest.approx(b[name]["mean"], rel=1e-3, abs=1e-4), name
    runs = [next((tmp_path / name).iterdir()) for name in ("one", "two")]
    assert (runs[0] / "pairing.json").read_bytes() == (runs[1] / "pairing.json").read_bytes()
    a, b = (load_file(find_snapshot(run)) for run in runs)
    for name in a:
        if name.startswith("G_ema."):
            assert torch.allclose(a[name], b[name], atol=2e-3), name


@pytest.mark.slow
def test_two_processes_that_are_stopped_and_resumed_end_with_the_same_bits_and_statistics(tmp_path: Path) -> None:
    """Stopped between two ticks, so that statistics under way are saved; one process prints how to go on."""
    options = OPTIONS | {"noise": "fuzzy", "kimg": 0.24, "tick": 0.12}
    whole = two_ranks(*as_arguments(options), "--outdir", str(tmp_path / "whole"))
    assert [status for status, _ in whole] == [0, 0], whole
    stopper = tmp_path / "stopper.py"
    stopper.write_text(STOPS_ITSELF)
    stopped = two_ranks(*as_arguments(options), "--outdir", str(tmp_path / "stopped"), plugin=stopper)
    assert [status for status, _ in stopped] == [130, 130], stopped
    assert "".join(error for _, error in stopped).count("Go on with: noisegan train --resume") == 1
    (run,) = (tmp_path / "stopped").iterdir()
    assert find_snapshot(run).name == "network-snapshot-000000.048.safetensors"
    resumed = two_ranks("--resume", str(run))
    assert [status for status, _ in resumed] == [0, 0], resumed
    (unbroken,) = (tmp_path / "whole").iterdir()
    assert find_snapshot(run).read_bytes() == find_snapshot(unbroken).read_bytes()
    for a, b in zip(stats(tmp_path / "whole"), stats(tmp_path / "stopped"), strict=True):
        for name in (name for name in a if name.startswith("Loss/")):
            assert a[name]["num"] == b[name]["num"], name
            assert a[name]["mean"] == pytest.approx(b[name]["mean"], rel=1e-12), name


STOPS_ITSELF = """
import os, signal
from noisegan.api import hookimpl

@hookimpl
def after_step(step):
    if step.step == 5:
        os.kill(os.getpid(), signal.SIGTERM)
"""

FAILS_ON_ONE_RANK = """
import os
from noisegan.api import FeatureInjector, Params, StrategySpec, hookimpl

class Failing(FeatureInjector):
    def set_progress(self, fraction):
        if fraction > 0.3 and os.environ.get("RANK") == "1":
            raise RuntimeError("rank one is out of order")
    def draw(self, source):
        return source.normal(0)
    def forward(self, x, noise, w):
        return x

@hookimpl
def register_strategies(register):
    register(StrategySpec(name="failing", params=Params, summary="s", reference="r", identity_at_init=True,
                          feature=lambda site, p: Failing()))
"""


@pytest.mark.slow
def test_no_process_hangs_when_one_fails(tmp_path: Path) -> None:
    plugin = tmp_path / "failing.py"
    plugin.write_text(FAILS_ON_ONE_RANK)
    failed = torchrun(*as_arguments(OPTIONS | {"noise": "failing"}), "--outdir", str(tmp_path / "o"), plugin=plugin)
    assert failed.returncode != 0
    assert "rank one is out of order" in failed.stderr


def test_two_ranks_draw_the_same_noise_per_sample_as_one_process() -> None:
    stream = Streams(3)["noise/b8.conv0/G"]
    whole = stream.source(step=5, ids=range(8)).normal(1, 8, 8)
    parts = [stream.source(step=5, ids=range(first, first + 4)).normal(1, 8, 8) for first in (0, 4)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_float32_means_float32_on_a_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's default rounds the inputs of float32 convolutions to 10 bits."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert pick_device(device).type == "cuda"
    assert torch.backends.cudnn.allow_tf32 is False
