"""What is timed: noisegan's own training step, phase by phase, and sampling, on synthetic images in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from noisegan.core.config import TrainConfig, networks
from noisegan.core.data import ImageDataset, open_dataset
from noisegan.core.distributed import join_world
from noisegan.core.graphs import WARM_UP, CudaCapture, PhaseGraphs
from noisegan.core.images import to_float
from noisegan.core.noise import StreamNoise
from noisegan.core.phases import PHASES, RealBatch, TrainingStep
from noisegan.core.rng import Streams
from noisegan.core.state import TrainState
from noisegan.manager import Plugins

SIZES: dict[str, dict[str, Any]] = {
    # For the smoke test: runs in no time and says nothing about speed.
    "toy": {"cfg": "tiny", "resolution": 8, "cbase": 64, "cmax": 8, "z_dim": 8, "w_dim": 8, "map_depth": 2, "batch": 4},
    "32": {"cfg": "tiny"},
    # Channels 256/256/256/128/64 at batch 16: the step that the project's marks are given for.
    "64": {"cfg": "64"},
    # The widths of preset 64, min(256, 4096 / r), go on to 32 channels at 128 px; R1 weight times the ratio of pixels.
    "128": {"cfg": "64", "resolution": 128, "gamma": 3.2},
    # Configuration E of the paper, batch 32: for GPUs.
    "256": {"cfg": "e", "resolution": 256},
}


def finished_s() -> float:
    """Seconds on the wall when the GPU has done all that it was asked for."""
    torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time, "gpu": finished_s}
"""`cpu` is the calling thread's time: deaf to neighbours, and the whole truth with one thread only."""


def clock_for(device: str, threads: int) -> str:
    """A name of `CLOCKS`."""
    if device == "cuda":
        return "gpu"
    return "cpu" if threads == 1 else "wall"


Times = dict[str, float]


def synthetic_images(resolution: int, count: int = 64) -> ImageDataset:
    """Colour noise, in memory."""
    pixels = np.random.default_rng(0).integers(256, size=(count, resolution, resolution, 3), dtype=np.uint8)
    with TemporaryDirectory() as folder:
        path = Path(folder, "synthetic.npy")
        np.save(path, pixels)
        return open_dataset(path)


def batch_of(size: str) -> int:
    """Images per step and per sampled batch."""
    batch: int = TrainConfig(data="synthetic", outdir="unused", **SIZES[size]).resolve().need("batch")
    return batch


class Workload:
    """A run of one size, precision and noise strategy that can be timed again and again.

    Args:
        size: a name of `SIZES`.
        precision: `fp32`, `bf16` or, on a GPU, `fp16`.
        strategy: a noise expression.
        clock: a name of `CLOCKS`.
        device: `cpu` or `cuda`.
        prepare: called with the fresh state, before the first step.
    """

    def __init__(
        self,
        size: str,
        *,
        precision: str = "fp32",
        strategy: str = "additive",
        clock: str = "wall",
        device: str = "cpu",
        prepare: Callable[[TrainState], None] | None = None,
    ) -> None:
        options = {"data": "synthetic", "outdir": "unused", "device": device, "noise": strategy, "precision": precision}
        self.config = TrainConfig(**(options | SIZES[size])).resolve()
        strategies = Plugins(entry_points=False).parse(strategy)
        arguments = networks(self.config, resolution=self.config.need("resolution"), img_channels=3, c_dim=0)
        self.world = world = join_world(device)  # sets the allocator too
        self.state = TrainState(self.config, arguments, strategies, data="synthetic", device=world.device)
        if prepare is not None:
            prepare(self.state)
        self.streams = Streams(0)
        self.batch: int = self.config.need("batch")
        dataset = synthetic_images(self.config.need("resolution"))
        self.step = TrainingStep(self.state, self.config, dataset, self.streams, world)
        items = torch.arange(self.batch)
        self.real = RealBatch(to_float(dataset.images(items).to(world.device)), dataset.labels(items).to(world.device))
        self.z = self.streams["z"].source(ids=range(self.batch), device=world.device).normal(self.state.G.z_dim)
        self._now = CLOCKS[clock]
        self._times: Times = {}
        self._play: Callable[[str, RealBatch], None] = self.step.phase
        self.on_phase: Callable[[str], None] = lambda name: None
        self.step.play = self._timed_phase

    def capture(self) -> None:
        """From now on phases are CUDA graphs, as in a run on one GPU."""
        capture = CudaCapture(self.world.device)
        self._play = PhaseGraphs(self.step.phase, capture, list(self.state.injectors()))
        for _ in range(WARM_UP + 1):
            self.train()

    def train(self) -> tuple[Times, dict[str, float]]:
        """One step in which every phase is due: seconds per phase (`rest`: averages and all else), and losses."""
        every = math.lcm(self.config.pl_interval, self.config.r1_interval)
        self.state.step = -(-self.state.step // every) * every
        self._times = {}
        start = self._now()
        losses = self.step.run(self.real)
        total = self._now() - start
        return self._times | {"rest": total - sum(self._times.values())}, losses

    def weigh(self, times: Times) -> float:
        """Seconds of an average step: lazy regularisers count by how often they run."""
        often = {"PL": 1 / self.config.pl_interval, "R1": 1 / self.config.r1_interval}
        return sum(seconds * often.get(name, 1) for name, seconds in times.items())

    @torch.no_grad()
    def sample(self) -> float:
        """Seconds for one batch of images of the averaged generator, fresh noise, no gradient."""
        self.on_phase("sample")
        start = self._now()
        self.state.G_ema(self.z, noise=StreamNoise(self.streams, ids=range(self.batch), step=self.state.step))
        return self._now() - start

    def _timed_phase(self, name: str, inputs: RealBatch) -> None:
        assert name in PHASES
        self.on_phase(name)
        start = self._now()
        self._play(name, inputs)
        self._times[name] = self._now() - start
