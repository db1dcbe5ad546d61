"""A run that is stopped anywhere and resumed ends with the same bits as one that was not."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forking
import pytest
import torch
from backends import backend, launches, native_kernels
from safetensors.torch import load_file
from training import ALL_POINTS, SMALL, STRATEGIES, WIDE, as_arguments, assert_same_snapshot, snapshot_names, started

import noisegan
from noisegan.core.checkpoint import find_snapshot, snapshots
from noisegan.errors import NoiseganError
from noisegan.ext import winograd
from noisegan.manager import Plugins


class Crash(Exception):
    pass


def crash_at(step: int) -> Plugins:
    """Plugins with an observer that raises after a step, as a power cut would."""
    plugins = Plugins([ALL_POINTS], entry_points=False)

    def after_step(run: Any, step: Any) -> None:
        if step.step == crash:
            raise Crash

    crash = step
    from noisegan.api import hookimpl

    plugins._pluggy.register(SimpleNamespace(after_step=hookimpl(after_step)), "crash")
    return plugins


def plugins() -> Plugins:
    return Plugins([ALL_POINTS], entry_points=False)


@pytest.mark.parametrize("noise", STRATEGIES)
def test_a_crashed_and_resumed_run_equals_an_unbroken_one_bitwise(noise: str, tmp_path: Path) -> None:
    resumed_equals_unbroken(noise, tmp_path)


@pytest.mark.parametrize("kind", ["native", "ref"])
def test_so_it_does_with_either_backend(kind: str, tmp_path: Path) -> None:
    with backend(kind):
        resumed_equals_unbroken("all_points", tmp_path)


def test_so_it_does_with_winograds_convolutions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native_kernels()
    if torch.float32 not in winograd._dtypes():
        pytest.skip("Winograd's convolutions are not used on this processor")
    with launches(monkeypatch) as convolutions, backend("native"):
        resumed_equals_unbroken("all_points", tmp_path, **WIDE)
    assert set(convolutions) == {"winograd", "winograd_weight"}


def resumed_equals_unbroken(noise: str, tmp_path: Path, **options: Any) -> None:
    options = SMALL | options
    whole = noisegan.train(outdir=str(tmp_path / "a"), noise=noise, plugins=plugins(), quiet=True, **options)
    with pytest.raises(Crash):  # step 12: between the snapshots of 10 and 15 steps
        noisegan.train(outdir=str(tmp_path / "b"), noise=noise, plugins=crash_at(12), quiet=True, **options)
    (broken,) = (tmp_path / "b").iterdir()
    assert len(snapshots(broken)) == 2
    assert noisegan.train(resume=broken, plugins=plugins(), quiet=True) == broken
    assert (
        snapshot_names(whole)
        == snapshot_names(broken)
        == [f"network-snapshot-000000.{nimg:03d}.safetensors" for nimg in (40, 80, 120, 160)]
    )
    for a, b in zip(snapshots(whole), snapshots(broken), strict=True):
        assert_same_snapshot(a, b)
    assert (whole / "pairing.json").read_bytes() == (broken / "pairing.json").read_bytes()
    assert _stats(whole) == _stats(broken)


def test_a_run_killed_before_its_first_snapshot_starts_again(tmp_path: Path) -> None:
    whole = noisegan.train(outdir=str(tmp_path / "a"), plugins=plugins(), quiet=True, **SMALL)
    with pytest.raises(Crash):
        noisegan.train(outdir=str(tmp_path / "b"), plugins=crash_at(1), quiet=True, **SMALL)
    (broken,) = (tmp_path / "b").iterdir()
    noisegan.train(resume=broken, plugins=plugins(), quiet=True)
    assert_same_snapshot(find_snapshot(whole), find_snapshot(broken))


def test_an_earlier_snapshot_branches_off_into_a_run_of_its_own(tmp_path: Path) -> None:
    whole = noisegan.train(outdir=str(tmp_path / "a"), plugins=plugins(), quiet=True, **SMALL)
    first = snapshots(whole)[0]
    with pytest.raises(NoiseganError, match=r"holds later snapshots .* give another --outdir"):
        noisegan.train(resume=first, plugins=plugins(), quiet=True)
    branch = noisegan.train(resume=first, outdir=str(tmp_path / "b"), plugins=plugins(), quiet=True)
    assert branch.parent == tmp_path / "b"
    assert_same_snapshot(find_snapshot(whole), find_snapshot(branch))


def test_a_finished_run_can_be_made_longer(tmp_path: Path) -> None:
    short = noisegan.train(outdir=str(tmp_path / "a"), plugins=plugins(), quiet=True, **SMALL | {"kimg": 0.08})
    noisegan.train(resume=short, kimg=0.16, plugins=plugins(), quiet=True)
    whole = noisegan.train(outdir=str(tmp_path / "b"), plugins=plugins(), quiet=True, **SMALL)
    assert_same_snapshot(find_snapshot(whole), find_snapshot(short))


def test_resume_says_what_differs(tmp_path: Path) -> None:
    run = noisegan.train(outdir=str(tmp_path), plugins=plugins(), quiet=True, **SMALL | {"kimg": 0.04})
    with pytest.raises(NoiseganError, match=r"these differ: noise 'additive' -> 'fuzzy'; cmax 8 -> 16;"):
        noisegan.train(resume=run, noise="fuzzy", cmax=16, plugins=plugins(), quiet=True)


def test_resume_refuses_other_data(tmp_path: Path) -> None:
    run = noisegan.train(outdir=str(tmp_path), plugins=plugins(), quiet=True, **SMALL | {"kimg": 0.04})
    import numpy as np

    other = tmp_path / "other.npy"
    np.save(other, np.zeros((20, 8, 8), np.uint8))
    with pytest.raises(NoiseganError, match="was trained on other data"):
        noisegan.train(resume=run, data=str(other), kimg=0.08, plugins=plugins(), quiet=True)


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    from noisegan.core.runfolder import RunFolder

    run = noisegan.train(outdir=str(tmp_path), plugins=plugins(), quiet=True, **SMALL | {"kimg": 0.04})
    held = RunFolder.open(run)
    try:
        with pytest.raises(NoiseganError, match="another process is training"):
            noisegan.train(resume=run, kimg=0.08, plugins=plugins(), quiet=True)
    finally:
        held.close()


def test_the_same_command_with_resume_goes_on_in_place(tmp_path: Path) -> None:
    """Adding --resume to the command line that was killed is enough, also when nothing is left to do."""
    options = SMALL | {"kimg": 0.08, "outdir": str(tmp_path)}
    with pytest.raises(Crash):
        noisegan.train(plugins=crash_at(6), quiet=True, **options)
    (run,) = tmp_path.iterdir()
    for _ in range(2):
        config = noisegan.TrainConfig(**options)
        assert noisegan.train(config, resume=run, plugins=plugins(), quiet=True) == run
    assert list(tmp_path.iterdir()) == [run]
    with pytest.raises(NoiseganError, match=r"is at 0.08 kimg already; give a larger --kimg"):
        noisegan.train(resume=run, outdir=tmp_path / "elsewhere", plugins=plugins(), quiet=True)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(NoiseganError, match=r"is at 0.08 kimg already; give a larger --kimg"):
        noisegan.train(resume=run, kimg=0.04, plugins=plugins(), quiet=True)
    assert json.loads((run / "training_options.json").read_text())["config"]["kimg"] == 0.08


def test_equal_expressions_are_no_difference(tmp_path: Path) -> None:
    run = noisegan.train(outdir=tmp_path, noise="fuzzy", plugins=plugins(), quiet=True, **SMALL | {"kimg": 0.04})
    noisegan.train(resume=run, noise="fuzzy(alpha=0.5)", cfg="TINY", kimg=0.08, plugins=plugins(), quiet=True)


def test_other_data_are_refused_even_before_the_first_snapshot(tmp_path: Path) -> None:
    import numpy as np

    with pytest.raises(Crash):
        noisegan.train(outdir=tmp_path / "o", plugins=crash_at(1), quiet=True, **SMALL)
    (run,) = (tmp_path / "o").iterdir()
    np.save(tmp_path / "other.npy", np.zeros((20, 8, 8), np.uint8))
    with pytest.raises(NoiseganError, match="was trained on other data"):
        noisegan.train(resume=run, data=tmp_path / "other.npy", plugins=plugins(), quiet=True)


CHOOSY = """
import enum
from noisegan.api import FeatureInjector, Field, Params, StrategySpec, hookimpl
from noisegan.plugins.additive import AdditiveNoise

class Kind(enum.Enum):
    ONE = "one"

class ChoosyParams(Params):
    kind: Kind = Field(Kind.ONE, description="an enumeration")
    strength: float = Field({strength}, description="strength")

@hookimpl
def register_strategies(register):
    register(StrategySpec(name="choosy", params=ChoosyParams, summary="s", reference="r", identity_at_init=False,
                          feature=lambda site, p: AdditiveNoise(site, per_channel=False, strength=p.strength)))
"""


def test_a_run_keeps_its_parameters_when_the_plugin_changes_its_defaults(tmp_path: Path) -> None:
    file = tmp_path / "choosy.py"
    file.write_text(CHOOSY.format(strength=0.1))
    options = SMALL | {"kimg": 0.04, "noise": "choosy"}
    run = noisegan.train(outdir=tmp_path / "o", plugins=Plugins([file], entry_points=False), quiet=True, **options)
    file.write_text(CHOOSY.format(strength=5.0))
    noisegan.train(resume=run, kimg=0.08, plugins=Plugins([file], entry_points=False), quiet=True)
    facts = json.loads(find_snapshot(run).with_suffix(".json").read_text())
    assert facts["noise"][0]["params"] == {"kind": "one", "strength": 0.1}
    assert "warning: plugin 'choosy' had version sha256:" in (run / "log.txt").read_text()


def test_a_snapshot_without_optimiser_states_is_refused(tmp_path: Path) -> None:
    from noisegan.core.checkpoint import read_facts, read_tensors, save_snapshot

    run = noisegan.train(outdir=tmp_path, plugins=plugins(), quiet=True, **SMALL | {"kimg": 0.04})
    path = find_snapshot(run)
    tensors = {k: v for k, v in read_tensors(path).items() if "opt_G/G.synthesis.b4.const" not in k}
    save_snapshot(path, tensors, read_facts(path))
    with pytest.raises(NoiseganError, match="lacks states of the optimiser of G"):
        noisegan.train(resume=run, kimg=0.08, plugins=plugins(), quiet=True)


LONG = SMALL | {"kimg": 0.8, "tick": 0.04, "noise": "fuzzy"}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noisegan.train(outdir=str(tmp_path_factory.mktemp("unbroken")), quiet=True, **LONG)


def _wait_for(condition: Any, process: Any) -> None:
    deadline = time.monotonic() + forking.PATIENCE_S
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "the run never got there"
        time.sleep(0.005)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_leaves_whole_snapshots_and_ends_with_the_same_bits(
    tmp_path: Path, unbroken: Path
) -> None:
    moments = random.Random(5)
    arguments = [*as_arguments(LONG), "--outdir", str(tmp_path)]
    kills = 0
    for _ in range(12):
        process = forking.Forked("train", *arguments)
        before = len(list(tmp_path.glob("0*/*.safetensors")))
        _wait_for(lambda before=before: len(list(tmp_path.glob("0*/*.safetensors"))) > before, process)
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        (run,) = tmp_path.glob("0*")
        for path in snapshots(run):
            assert load_file(path), path  # whole
            json.loads(path.with_suffix(".json").read_text())
        if process.returncode == 0:
            break
        arguments = ["--resume", str(run)]
    else:
        assert started("train", *arguments).returncode == 0
    assert kills >= 3
    assert_same_snapshot(find_snapshot(unbroken), find_snapshot(run))
    assert _stats(unbroken) == _stats(run)
    assert not list(run.glob(".*.tmp"))


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_go_on_and_loses_nothing(tmp_path: Path, unbroken: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "noisegan", "train", *as_arguments(LONG), "--outdir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    _wait_for(lambda: list(tmp_path.glob("0*/stats.jsonl")), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=forking.PATIENCE_S)
    assert process.returncode == 130, output
    (run,) = tmp_path.glob("0*")
    said = re.search(r"Go on with: noisegan (train --resume \S+)", output)
    assert said, output
    assert "Traceback" not in output
    finished = forking.run(*said[1].split())
    assert finished.returncode == 0, finished.stderr
    assert_same_snapshot(find_snapshot(unbroken), find_snapshot(run))


def _stats(run: Path) -> list[dict[str, Any]]:
    """Statistics without the times."""
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert lines
    return [{k: v for k, v in line.items() if not k.startswith(("Timing/", "timestamp"))} for line in lines]
