"""A comparison that is killed, interrupted, or out of disk space loses nothing and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comparing import SCORES, TRAIN, compare, read, small, toml, without_times
from forking import PATIENCE_S, Forked

from noisegan.compare.executor import LocalExecutor, default_threads
from noisegan.compare.experiment import Experiment
from noisegan.compare.worker import Job
from noisegan.core.checkpoint import snapshots
from noisegan.core.runfolder import locked
from noisegan.errors import NoiseganError
from noisegan.files import write_json
from noisegan.manager import Plugins

LONGER = small("none", "fuzzy", replicates=1, train=TRAIN | {"kimg": 0.4, "tick": 0.08})
"""Fifty steps a run."""


def start(file: Path, folder: Path, *, fsize: int | None = None) -> Forked:
    """`noisegan compare` in a process group of its own, with files of at most `fsize` bytes; workers are started."""
    words = ["compare", str(file), "--outdir", str(folder), "--plugin", str(SCORES), "--jobs", "2"]
    return Forked(*words, new_session=True, fsize=fsize)


def until_training(folder: Path, process: Forked) -> None:
    """Wait for the first snapshot of any run."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not any((folder / "runs").glob("*/*.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def workers_of(folder: Path) -> list[int]:
    """Processes that hold a run folder's lock or log open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            stderr = (process / "fd" / "2").readlink()
        except OSError:
            continue
        if b"noisegan.compare.worker" in words and stderr.is_relative_to(folder):
            found.append(int(process.name))
    return found


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_same_results(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(toml(LONGER))
    whole = tmp_path / "whole"
    compare(LONGER, whole)
    broken = tmp_path / "broken"
    rng = random.Random()  # another moment each time; the property holds at all of them
    for _ in range(2):
        process = start(file, broken)
        until_training(broken, process)
        time.sleep(rng.uniform(0, 1.5))
        process.kill()
        process.communicate()
    process = start(file, broken)
    _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, error
    assert without_times(read(broken)) == without_times(read(whole))
    for path in whole.glob("runs/*/*.safetensors"):
        assert path.read_bytes() == (broken / path.relative_to(whole)).read_bytes(), path
    assert workers_of(broken) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks for processes in /proc")
def test_workers_save_and_stop_when_their_parent_is_killed(tmp_path: Path) -> None:
    file, folder = tmp_path / "e.toml", tmp_path / "out"
    file.write_text(toml(small("none", "fuzzy", train=TRAIN | {"kimg": 4000, "tick": 0.08})))
    process = start(file, folder)
    until_training(folder, process)
    assert workers_of(folder)
    process.kill()
    process.communicate()
    deadline_s = time.monotonic() + PATIENCE_S
    while workers_of(folder):
        assert time.monotonic() < deadline_s, "orphans go on"
        time.sleep(0.1)


@pytest.mark.slow
def test_nobody_listening_is_no_failure(tmp_path: Path) -> None:
    """The parent's end breaks the pipe of events; the step under way must not fail by that, or its state is lost."""
    experiment = Experiment(**small("none", "additive", replicates=1)).resolve(Plugins([SCORES]))
    write_json(tmp_path / "experiment.json", experiment.as_dict())
    job = json.dumps({"folder": str(tmp_path), "variant": "none", "seed": 0, "plugins": [str(SCORES)]})
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(
        [sys.executable, "-m", "noisegan.compare.worker"],
        stdin=subprocess.PIPE,
        stdout=write,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        os.close(write)
        assert process.stdin is not None
        process.stdin.write(job + "\n")
        process.stdin.flush()
        assert process.wait(timeout=PATIENCE_S) == 0
    assert len(snapshots(tmp_path / "runs" / "none-seed0")) == 2


@pytest.mark.slow
def test_scoring_stops_when_the_parent_is_gone(tmp_path: Path) -> None:
    """Scores that would take hours; the end of standard input is the end of the parent."""
    folder = tmp_path / "out"
    content = small("none", "additive", replicates=1)
    compare(content, folder)
    longer = content["evaluation"] | {"samples": 10**8}
    write_json(folder / "experiment.json", Experiment(**content | {"evaluation": longer}).resolve(Plugins()).as_dict())
    job = json.dumps({"folder": str(folder), "variant": "none", "seed": 0, "plugins": [str(SCORES)]})
    ended = subprocess.run(
        [sys.executable, "-m", "noisegan.compare.worker"], input=job + "\n", capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == -signal.SIGTERM
    assert "done" not in [json.loads(line)["event"] for line in ended.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_saves_and_says_how_to_go_on(name: str, tmp_path: Path) -> None:
    file, folder = tmp_path / "e.toml", tmp_path / "out"
    file.write_text(toml(small("none", "fuzzy", train=TRAIN | {"kimg": 40, "tick": 0.08, "snap": 500})))
    process = start(file, folder)
    deadline_s = time.monotonic() + PATIENCE_S
    while not any((folder / "runs").glob("*/stats.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    process.send_signal(signal.Signals[name])
    _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "interrupted; what was trained is saved in" in error
    assert "Run the same command again to go on" in error
    assert "Traceback" not in error
    assert any(snapshots(run) for run in (folder / "runs").iterdir())


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_saved(tmp_path: Path) -> None:
    """Files that may not grow stand for a disk that is full: the first snapshot does not fit."""
    file, folder = tmp_path / "e.toml", tmp_path / "out"
    file.write_text(toml(small("none", "additive", replicates=1)))
    process = start(file, folder, fsize=30_000)
    _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "Traceback" not in error
    assert "all runs failed; the first: could not save the state: " in error
    assert "File too large" in error
    assert "make room on the disk" in error
    assert len(error.strip().splitlines()) == 1
    assert not list(folder.rglob("*.tmp"))
    compare(small("none", "additive", replicates=1), folder)


def test_a_worker_that_is_killed_is_a_failed_run(tmp_path: Path) -> None:
    """As the system does it when memory runs out."""
    job = Job(str(tmp_path), "none", 0)
    events = []

    class Doomed(LocalExecutor):
        def _start(self, *arguments):  # type: ignore[no-untyped-def]
            worker = super()._start(*arguments)
            worker.process.kill()
            return worker

    Doomed(1, 1).run([(job, tmp_path / "log.txt")], lambda job, event: events.append(event))
    assert events == [{"event": "failed", "error": "its worker was ended by SIGKILL (perhaps for lack of memory)"}]


def test_a_second_comparison_in_the_folder_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path, "busy"), pytest.raises(NoiseganError, match="another comparison runs in"):
        compare(small(), tmp_path)


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    assert [default_threads(jobs) for jobs in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads(2) == 3
