"""A process that holds one workload and times a round of it whenever it is told to.

Implementations are compared in processes of their own, since an allocator's setting belongs to a process, and in turns,
since a machine's mood belongs to the minute. A worker that waits for its turn sleeps.

The language, a line each way: the parent writes a round's number, the worker answers with seconds by name as JSON. Its
first line says that it is ready and how it computes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import torch

from bench.floor import ConvolutionRecorder, bare
from bench.naive import naive, plain_state
from bench.workload import CLOCKS, Times, Workload, clock_for
from noisegan.core import memory
from noisegan.ext.load import backend_of

NAIVE_ENVIRONMENT = {memory.VARIABLE: "system"}
"""The system's own allocator settings."""
SAMPLES = 3
"""Batches sampled in a round; the median counts."""


@dataclass(frozen=True)
class Candidate:
    """What a worker times. `impl`: noisegan, nographs (on a GPU) or naive; `floor`: time the bare convolutions too."""

    size: str
    precision: str = "fp32"
    impl: str = "noisegan"
    strategy: str = "additive"
    threads: int = 2
    floor: bool = False
    device: str = "cpu"

    @property
    def clock(self) -> str:
        return clock_for(self.device, self.threads)


class Worker:
    """The parent's end of a worker."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        tests = str(Path(__file__).parents[1])
        environment = os.environ | {"OMP_NUM_THREADS": str(candidate.threads)}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
        if candidate.impl == "naive":
            environment |= NAIVE_ENVIRONMENT
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", json.dumps(asdict(candidate))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ready(self) -> str:
        """Wait until it has warmed up; what runs its operations, `native` or `reference`."""
        backend: str = self._read()["backend"]
        return backend

    def round(self) -> Times:
        """One round, as `Subject.round`."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker for {self.candidate} died with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # the end of its input is its end
        self._process.wait()
        self._process.stdout.close()


class Subject:
    """The worker's end: a workload, and a round of it."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.work = Workload(
            candidate.size,
            precision=candidate.precision,
            strategy=candidate.strategy,
            clock=candidate.clock,
            device=candidate.device,
            prepare=plain_state if candidate.impl == "naive" else None,
        )
        self.work.train()  # warms up; the optimisers' states come to be
        self.work.sample()
        self.recorder = ConvolutionRecorder()
        if candidate.floor:
            self.work.on_phase = lambda name: setattr(self.recorder, "phase", name)
            with self.recorder:
                self.work.train()
                self.work.sample()
            self.work.on_phase = lambda name: None
        self.bare = {
            (floor, name): bare(calls, candidate.device, torchs=floor == "floor")
            for floor in ("floor", "own_floor")
            for name, calls in self.recorder.calls.items()
        }
        if candidate.impl == "noisegan" and candidate.device == "cuda":
            self.work.capture()

    def round(self) -> Times:
        """Seconds by name: `train/G`, ..., `sample`, `floor/G`, ..., and of weighted steps `train`, `floor` (torch's
        convolutions) and `own_floor` (noisegan's)."""
        work = self.work
        work.train()  # not measured: caches are cold after the others' turns, and a run is not
        phases, _losses = work.train()
        times: Times = {f"train/{name}": seconds for name, seconds in phases.items()}
        times["train"] = work.weigh(phases)
        times["sample"] = median(work.sample() for _ in range(SAMPLES))
        for kind in ("floor", "own_floor") if self.candidate.floor else ():
            floor = {name: self._bare_s(kind, name) for of, name in self.bare if of == kind and name != "sample"}
            times |= {f"{kind}/{name}": seconds for name, seconds in floor.items()}
            times[kind] = work.weigh(floor)
            times[f"{kind}_sample"] = median(self._bare_s(kind, "sample") for _ in range(SAMPLES))
        return times

    def _bare_s(self, kind: str, name: str) -> float:
        now = CLOCKS[self.candidate.clock]
        start = now()
        self.bare[kind, name]()
        return now() - start


def main(arguments: str) -> None:
    """The worker's end of the conversation."""
    candidate = Candidate(**json.loads(arguments))
    torch.set_num_threads(candidate.threads)
    with naive() if candidate.impl == "naive" else nullcontext():
        subject = Subject(candidate)
        print(json.dumps({"backend": backend_of(candidate.device)}), flush=True)
        for _ in sys.stdin:
            print(json.dumps(subject.round()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
