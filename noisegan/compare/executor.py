"""Where the runs of a comparison are worked on. `Executor` is the seam: here a process on this machine for each."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from noisegan.compare.worker import Job
from noisegan.files import unwritable

Notify = Callable[[Job, Mapping[str, Any]], None]


class Executor(Protocol):
    """Works on jobs, in any order, until each is done or has failed."""

    def run(self, jobs: Sequence[tuple[Job, Path]], notify: Notify) -> None:
        """Bring all jobs to their end.

        Args:
            jobs: each with the file for what its worker prints.
            notify: called in this thread with each event of a worker: `progress`, `trained`, `scoring`, `score`,
                `inverting`, and at last `done` or `failed` (with an `error`).

        Raises:
            KeyboardInterrupt: when the user stops it, after every worker has saved its state.
        """
        ...


@dataclass
class _Worker:
    job: Job
    process: subprocess.Popen[str]
    slot: int
    listener: threading.Thread
    ended: bool = False


class LocalExecutor:
    """Worker processes on this machine.

    Args:
        workers: how many at a time.
        threads: of each.
        gpus: to spread them over, as CUDA_VISIBLE_DEVICES names them.
    """

    def __init__(self, workers: int, threads: int, gpus: Sequence[str] = ()) -> None:
        self._count, self._threads, self._gpus = workers, threads, gpus

    def run(self, jobs: Sequence[tuple[Job, Path]], notify: Notify) -> None:
        waiting = list(jobs)
        running: dict[int, _Worker] = {}
        events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        try:
            while waiting or running:
                while waiting and len(running) < self._count:
                    slot = next(i for i in range(self._count) if i not in running)
                    running[slot] = self._start(*waiting.pop(0), slot, events)
                worker, event = events.get()
                if event is not None:
                    worker.ended = event["event"] in ("done", "failed")
                    notify(worker.job, event)
                    continue
                del running[worker.slot]
                code = _close(worker)
                if not worker.ended:
                    notify(worker.job, {"event": "failed", "error": _why(code)})
        except BaseException:
            self._stop(list(running.values()), notify)
            raise

    def _start(self, job: Job, log: Path, slot: int, events: queue.Queue[Any]) -> _Worker:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            file = log.open("a", encoding="utf-8")
        except OSError as error:
            raise unwritable(log, error) from error
        with file:
            process = subprocess.Popen(
                [sys.executable, "-m", "noisegan.compare.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=self._environment(slot),
                start_new_session=True,  # Ctrl-C comes here alone, and is passed on once
            )
        listener = threading.Thread(target=lambda: _listen(worker, events), daemon=True)
        worker = _Worker(job, process, slot, listener)
        listener.start()
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has died already, which `_listen` finds out
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()  # and stays open: its end tells the worker that this process is gone
        return worker

    def _environment(self, slot: int) -> dict[str, str]:
        environment = os.environ | {"OMP_NUM_THREADS": str(self._threads)}
        if len(self._gpus) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        return environment

    def _stop(self, workers: list[_Worker], notify: Notify) -> None:
        """Ask all to save and stop, and wait for it; a second Ctrl-C kills them."""
        for worker in workers:
            notify(worker.job, {"event": "stopping"})
        try:
            # Again and again: a run that is at its last step hears the first one and goes on to its scores.
            while any(worker.process.poll() is None for worker in workers):
                for worker in workers:
                    worker.process.terminate()
                time.sleep(0.5)
        except KeyboardInterrupt:
            for worker in workers:
                worker.process.kill()
        for worker in workers:
            _close(worker)


def default_threads(workers: int) -> int:
    """Threads of each of `workers` processes: OMP_NUM_THREADS if it is set, else the cores shared out evenly."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if chosen.isdigit() and int(chosen) > 0:
        return int(chosen)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def _listen(worker: _Worker, events: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
    """Put a worker's events into the queue, and None after the last."""
    assert worker.process.stdout is not None
    for line in worker.process.stdout:
        with suppress(ValueError):  # torn when the worker is killed
            events.put((worker, json.loads(line)))
    events.put((worker, None))


def _close(worker: _Worker) -> int:
    """Wait for the end of a worker and close its pipes; returns its status."""
    worker.process.wait()
    worker.listener.join()
    with suppress(BrokenPipeError), worker.process:  # what it had not read when it died
        pass
    return worker.process.returncode


def _why(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (perhaps for lack of memory)" if name == "SIGKILL" else ""
        return f"its worker was ended by {name}{hint}"
    return "it was interrupted" if code == 130 else f"its worker ended with status {code}"


def cuda_devices() -> list[str]:
    """The GPUs that workers may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
