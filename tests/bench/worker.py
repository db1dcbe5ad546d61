"""A process that holds one workload and times a round of it whenever it is told to.

Implementations are compared in processes of their own, since an allocator's setting belongs to a process, and in turns,
since a machine's mood belongs to the minute. A worker that waits for its turn sleeps.

The language, a line each way: the parent writes a round's number, the worker answers with seconds by name as JSON. Its
first line says that it is ready and how it computes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

NAIVE_ENVIRONMENT = {"NOISEGAN_MALLOC": "0"}
"""The system's own allocator settings."""
SAMPLES = 3
"""Batches sampled in a round; the median counts."""


@dataclass(frozen=True)
class Candidate:
    """What a worker times. `impl`: noisegan or naive; `floor`: time the bare convolutions too."""

    size: str
    precision: str = "fp32"
    impl: str = "noisegan"
    strategy: str = "additive"
    threads: int = 2
    floor: bool = False

    @property
    def clock(self) -> str:
        return "cpu" if self.threads == 1 else "wall"


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
        self.backend: str = self._read()["backend"]

    def round(self) -> dict[str, float]:
        """Seconds by name: `train/G`, ..., `sample`, `floor/G`, ...; `train` and `floor` are weighted steps."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker for {self.candidate} died with status {self._process.wait()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # the end of its input is its end
        self._process.wait()
        self._process.stdout.close()


def main(arguments: str) -> None:
    """The worker's end."""
    from statistics import median

    import torch

    from bench.floor import ConvolutionRecorder, replay
    from bench.naive import naive, plain_state
    from bench.workload import CLOCKS, Times, Workload
    from noisegan.ext.load import backend_of

    candidate = Candidate(**json.loads(arguments))
    torch.set_num_threads(candidate.threads)
    is_naive = candidate.impl == "naive"
    with naive() if is_naive else contextlib.nullcontext():
        work = Workload(
            candidate.size,
            precision=candidate.precision,
            strategy=candidate.strategy,
            clock=candidate.clock,
            prepare=plain_state if is_naive else None,
        )
        work.train()  # warms up; the optimisers' states come to be
        work.sample()
        recorder = ConvolutionRecorder()
        if candidate.floor:
            work.on_phase = lambda name: setattr(recorder, "phase", name)
            with recorder:
                work.train()
                work.sample()
            work.on_phase = lambda name: None
        print(json.dumps({"backend": backend_of("cpu")}), flush=True)
        for _ in sys.stdin:
            phases, _losses = work.train()
            times: Times = {f"train/{name}": seconds for name, seconds in phases.items()}
            times["train"] = work.weigh(phases)
            times["sample"] = median(work.sample() for _ in range(SAMPLES))
            if candidate.floor:
                now = CLOCKS[candidate.clock]
                bare = {name: replay(calls, now) for name, calls in recorder.calls.items() if name != "sample"}
                times |= {f"floor/{name}": seconds for name, seconds in bare.items()}
                times["floor"] = work.weigh(bare)
                times["floor_sample"] = median(replay(recorder.calls["sample"], now) for _ in range(SAMPLES))
            print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
