"""How things are timed: interleaved rounds, medians, and the facts without which a figure means nothing."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import noisegan
from bench.workload import CLOCKS
from noisegan.ext.load import backend_of

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
ENOUGH_S = 0.02
"""A sample repeats a call until it lasts this long: clocks and the scheduler are coarser than a small op."""


def interleave(calls: Mapping[str, Callable[[], object]], *, rounds: int, clock: str) -> dict[str, float]:
    """Median seconds of each call. All take turns within a round, so whatever disturbs the machine disturbs all."""
    now = CLOCKS[clock]
    repeats = {}
    for name, call in calls.items():
        call()
        start = now()
        call()
        repeats[name] = max(1, min(1000, round(ENOUGH_S / max(now() - start, 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = now()
            for _ in range(repeats[name]):
                call()
            samples[name].append((now() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in samples.items()}


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each key over rounds."""
    return {key: statistics.median(times[key] for times in rounds) for key in rounds[0]}


def facts(*, threads: int, rounds: int, clock: str, device: str) -> dict[str, Any]:
    """Machine and versions."""
    cpu, flags = _cpu()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "noisegan": noisegan.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu,
        "cpu_flags": {name: name in flags for name in CPU_FLAGS},
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "threads": threads,
        "rounds": rounds,
        "clock": clock,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "backend": backend_of(device),
    }


def _cpu() -> tuple[str, set[str]]:
    """The processor's name and flags, where Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name", platform.machine()), set(fields.get("flags", "").split())


def _commit() -> str | None:
    """The commit of the source tree, with + when files differ from it; None outside a repository."""
    here = Path(__file__).parent
    try:
        git = [
            subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return git[0] + ("+" if git[1] else "")
