"""One run of a comparison, in a process of its own: train what is missing, score and invert what is not.

    python -m noisegan.compare.worker

reads a job as one line of JSON from standard input and writes events as lines of JSON to standard output. Whatever else
is printed goes to standard error. When standard input ends, the parent is gone: the run saves its state and stops.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisegan import facade
from noisegan.api import hookimpl
from noisegan.compare.experiment import Experiment
from noisegan.compare.inverting import Inverter
from noisegan.compare.layout import Layout
from noisegan.compare.scoring import Scorer, read_json, scored_snapshots, select, trained_nimg
from noisegan.core.checkpoint import read_facts
from noisegan.core.config import TrainConfig
from noisegan.core.distributed import pick_device
from noisegan.core.runfolder import BusyError
from noisegan.errors import Interrupted, NoiseganError
from noisegan.files import write_json
from noisegan.hookspecs import RunView, StepView
from noisegan.inversion.heldout import read_held_out
from noisegan.manager import Plugins
from noisegan.metrics.columns import INVERSION
from noisegan.planning import open_data

Emit = Callable[..., None]
TIMING = "timing.json"
PROGRESS_S = 0.5
"""Seconds between two progress events."""
PATIENCE_S = 120
"""How long a worker waits for one whose parent was killed, and which is saving its state."""


@dataclass(frozen=True)
class Job:
    """A run to bring to its end: the comparison's folder, the label of its variant, its training seed, plugin files."""

    folder: str
    variant: str
    seed: int
    plugins: tuple[str, ...] = ()


def work(job: Job, emit: Emit) -> None:
    """Train and score one run; `emit(event, **facts)` tells of the progress.

    Raises:
        NoiseganError: for whatever stops it.
        Interrupted: when it is told to stop.
    """
    layout = Layout(job.folder)
    experiment = Experiment(**(read_json(layout.experiment) or {}))
    variant = next(v for v in experiment.variants if v.label == job.variant)
    run, target = layout.run(variant, job.seed), layout.evaluations(variant, job.seed)
    config = experiment.config(variant, job.seed).resolve()
    plugins = Plugins(job.plugins)
    target.mkdir(parents=True, exist_ok=True)
    if trained_nimg(run) < config.total_nimg:
        plugins.observe(_Observer(emit, config.total_nimg))
        options = config.model_dump(exclude_unset=True) | {"outdir": str(run.parent)}
        _patiently(lambda: facade.train(folder=run, plugins=plugins, quiet=True, **options), emit)
        _note_memory(target)
    emit("trained")
    snapshot = _score(experiment, plugins, run, target, config, emit)
    if experiment.inverts:
        table, held_out = experiment.evaluation.inversion, read_held_out(layout.held_out)
        inverter = Inverter(layout.inversion.parent, table, held_out, plugins, config.device)
        _invert(inverter, snapshot, run.name, emit)


def _score(experiment: Experiment, plugins: Plugins, run: Path, target: Path, config: TrainConfig, emit: Emit) -> Path:
    """All scores of features that the experiment asks for, then the pictures of the snapshot that counts: its path."""
    device = pick_device(config.device)
    dataset = open_data(config, silent=True)
    scorer = Scorer(experiment, plugins, dataset, device)
    if problem := scorer.changed_data(run):
        raise NoiseganError(problem)
    found = scored_snapshots(run, config, experiment.evaluation.snapshots)
    evaluations = []
    for number, (nimg, snapshot) in enumerate(found):
        path = scorer.evaluation_file(target, snapshot, nimg)
        known, started_s = path.exists(), time.monotonic()
        tell = _Throttle(emit)

        def progress(done: int, of: int, n: int = number, tell: _Throttle = tell) -> None:
            tell("scoring", done=n * of + done, of=of * len(found))

        evaluation = scorer.score(snapshot, path, progress)
        evaluations.append(evaluation)
        if not known and scorer.features:
            timing = read_json(target / TIMING) or {}
            seconds_s = timing.get("evaluation_s", 0.0) + time.monotonic() - started_s
            write_json(target / TIMING, timing | {"evaluation_s": seconds_s})
            _tell_hook(plugins, run, snapshot, evaluation, device)
        emit("score", nimg=nimg, scores={key: score["value"] for key, score in evaluation["scores"].items()})
    chosen = select(evaluations, experiment.selection, scorer.columns[0])
    scorer.draw_pictures(found[chosen][1], target)
    return found[chosen][1]


def _invert(inverter: Inverter, snapshot: Path, run: str, emit: Emit) -> None:
    """The score of how well the snapshot that counts can be inverted, unless it is there."""
    if inverter.evaluation(snapshot, run) is None:
        emit("inverting", done=0, of=1)
        for done, of in inverter.invert(snapshot, run):
            emit("inverting", done=done, of=of)
    evaluation = inverter.evaluation(snapshot, run)
    assert evaluation is not None
    nimg = read_facts(snapshot)["nimg"]
    emit("score", nimg=nimg, scores={INVERSION: inverter.score(evaluation)["value"]})


def _tell_hook(plugins: Plugins, run: Path, snapshot: Path, evaluation: Mapping[str, Any], device: Any) -> None:
    facts = read_facts(snapshot)
    view = RunView(outdir=run, options=facts, noise=facts["config"]["noise"], device=str(device), world_size=1)
    plugins.hook.after_evaluation(run=view, report=evaluation)


def _patiently(train: Callable[[], object], emit: Emit) -> None:
    """Train; while another worker is still closing the run's folder, wait."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            train()
            return
        except BusyError:
            if time.monotonic() > deadline_s:
                raise
            emit("waiting")
            time.sleep(1)


def _note_memory(target: Path) -> None:
    """Keep the largest resident size that a process training this run has had, in GiB."""
    timing = read_json(target / TIMING) or {}
    peak_gb = max(_peak_memory_gb(), timing.get("peak_memory_gb", 0.0))
    write_json(target / TIMING, timing | {"peak_memory_gb": peak_gb})


def _peak_memory_gb() -> float:
    """Largest resident size of this process in GiB.

    On Linux from /proc: what getrusage says there includes the size of the parent at the fork.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    except OSError:
        pass  # no Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30


class _Throttle:
    """Passes on an event now and then."""

    def __init__(self, emit: Emit) -> None:
        self._emit, self._last_s = emit, -PROGRESS_S

    def __call__(self, event: str, **facts: Any) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s >= PROGRESS_S:
            self._last_s = now_s
            self._emit(event, **facts)


class _Observer:
    """Tells of training steps."""

    def __init__(self, emit: Emit, total_nimg: int) -> None:
        self._emit, self._total = _Throttle(emit), total_nimg
        self._first: tuple[float, int] | None = None

    @hookimpl
    def after_step(self, run: RunView, step: StepView) -> None:
        now_s = time.monotonic()
        if self._first is None:
            self._first = (now_s, step.nimg)
        since_s, from_nimg = self._first
        speed = (step.nimg - from_nimg) / (now_s - since_s) if now_s > since_s else None
        self._emit("progress", nimg=step.nimg, total=self._total, img_per_s=speed)


def _read_line() -> bytes:
    """The first line of standard input, not buffered: a thread reads on."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line


def _follow_parent() -> None:
    """Stop as the user's signal would when standard input ends."""
    while os.read(0, 1):
        pass
    while True:  # a run that is at its last step hears the first one and goes on to its scores
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def main() -> int:
    atexit.register(gc.freeze)  # Python's last look for garbage, among all that torch defines, takes half a second
    events = os.dup(1)
    os.dup2(2, 1)  # what plugins print must not be taken for events

    def emit(event: str, **facts: Any) -> None:
        with suppress(BrokenPipeError):  # the parent is gone: the run is about to be saved, not to fail
            os.write(events, (json.dumps({"event": event} | facts) + "\n").encode())

    facts = json.loads(_read_line())
    job = Job(**(facts | {"plugins": tuple(facts["plugins"])}))
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        work(job, emit)
    except (Interrupted, KeyboardInterrupt):
        return 130
    except NoiseganError as error:
        emit("failed", error=str(error))
        return 2
    except Exception as error:
        traceback.print_exc()
        emit("failed", error=f"{type(error).__name__}: {error} (its log has the traceback)")
        return 1
    emit("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
