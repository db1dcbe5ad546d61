"""The training loop: steps, reports, snapshots, interruption, resume.

The schedule is a function of the images shown so far, and everything random of the step, so a run that is stopped
anywhere and resumed ends with the same bits (on a CPU) as one that was not.
"""

from __future__ import annotations

import math
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from noisegan.api import Strategy
from noisegan.core.checkpoint import find_snapshot, kimg_label, read_facts, read_tensors, save_snapshot, snapshot_name
from noisegan.core.config import TrainConfig
from noisegan.core.data import ImageDataset, Prefetcher, batch_indices
from noisegan.core.distributed import World
from noisegan.core.graphs import CudaCapture, PhaseGraphs, use_graphs
from noisegan.core.images import grid_size, make_grid, save_image, to_bytes, to_float
from noisegan.core.noise import StreamNoise
from noisegan.core.phases import NonFiniteError, RealBatch, TrainingStep
from noisegan.core.probe import learned_quantities, noise_to_signal
from noisegan.core.reporting import Reporter
from noisegan.core.rng import Streams
from noisegan.core.runfolder import RunFolder
from noisegan.core.state import TrainState
from noisegan.core.statistics import summarise
from noisegan.errors import Interrupted, NoiseganError
from noisegan.hookspecs import RunView, StepView, SummaryView

PROBE_SAMPLES = 16
"""Images behind each measurement of noise strength."""


class Trainer:
    """One run.

    Args:
        config: resolved options.
        options: what training_options.json and every snapshot record (config, data, networks, noise, versions).
        strategies: noise strategies in order of application.
        dataset: the real images.
        world: this process among others.
        hook: an object with the lifecycle hooks of `noisegan.hookspecs` as methods.
    """

    def __init__(
        self,
        config: TrainConfig,
        options: Mapping[str, Any],
        strategies: Sequence[Strategy],
        dataset: ImageDataset,
        *,
        world: World,
        hook: Any,
    ) -> None:
        self.config, self.options, self.dataset = config, dict(options), dataset
        self.world, self.hook = world, hook
        self.folder: RunFolder | None = None
        self.noise = " + ".join(map(str, strategies))
        self.streams = Streams(config.seed)
        self.batch: int = config.need("batch")
        self.state = TrainState(
            config,
            self.options["networks"],
            strategies,
            data=self.options["pairing_data"],
            device=world.device,
            deviation=self.options["dataset"].get("deviation", 1.0),
        )
        self.step = TrainingStep(self.state, config, dataset, self.streams, world)
        if use_graphs(config.graphs, world):
            self.step.play = PhaseGraphs(self.step.phase, CudaCapture(world.device), list(self.state.injectors()))
        self._stop = False

    @property
    def nimg(self) -> int:
        """Real images shown so far."""
        return self.state.step * self.batch

    def restore(self, snapshot: Path) -> None:
        """Go on from a snapshot."""
        self.state.load(read_tensors(snapshot), read_facts(snapshot)["counters"])
        if not self.world.is_main:  # the saved statistics are the sum over processes
            statistics = self.state.statistics
            statistics.replace_moments(torch.zeros_like(statistics.moments()))

    def run(self, folder: RunFolder | None, reporter: Reporter) -> Path | None:
        """Train to the end.

        Args:
            folder: the run folder on the main process, None on the others.
            reporter: tells the user.

        Returns:
            The last snapshot on the main process.

        Raises:
            Interrupted: when the user stops it; the state is saved.
            NoiseganError: when a loss is not finite, or a file cannot be read or written.
        """
        self.folder = folder
        view = self._view()
        started_s = time.monotonic()
        with _StopSignals(self), reporter:
            try:
                if view:
                    self.hook.before_train(run=view)
                self._write_first_grids()
                stats = self._steps(reporter, view)
            except (Interrupted, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._tell_of(error, view)
                raise
        if view is None:
            return None
        last = find_snapshot(view.outdir)
        seconds_s = time.monotonic() - started_s
        self.hook.after_train(
            run=view, summary=SummaryView(nimg=self.nimg, seconds_s=seconds_s, snapshot=last, stats=stats)
        )
        return last

    def _tell_of(self, error: BaseException, view: RunView | None) -> None:
        """Call `on_train_error`; a fault in it is logged and does not hide the first one."""
        if view is None or self.folder is None:
            return
        try:
            self.hook.on_train_error(run=view, error=error)
        except Exception as another:
            with suppress(NoiseganError):
                self.folder.log(f"on_train_error failed: {type(another).__name__}: {another}")

    def _steps(self, reporter: Reporter, view: RunView | None) -> dict[str, float]:
        """All steps that are left. Returns the last tick's statistics."""
        total, share = self.config.total_nimg, self.batch // self.world.size
        last: dict[str, float] = {}
        tick_started_s, tick_nimg = time.monotonic(), self.nimg
        data = Prefetcher(
            self.dataset,
            self.streams["data"],
            self.nimg + self.world.rank * share,
            share,
            stride=self.batch,
            workers=self.config.workers,
        )
        with data:
            while self.nimg < total:
                images, labels, _ = next(data)
                real = RealBatch(to_float(images.to(self.world.device)), labels.to(self.world.device))
                losses = self._guarded_step(real)
                if view:
                    step = StepView(step=self.state.step - 1, nimg=self.nimg, losses=losses)
                    self.hook.after_step(run=view, step=step)
                done = self.nimg >= total
                ticks = self.nimg // self.config.tick_nimg
                if done or ticks > (self.nimg - self.batch) // self.config.tick_nimg:
                    seconds_s = time.monotonic() - tick_started_s
                    last = self._tick(reporter, seconds_s, self.nimg - tick_nimg)
                    tick_started_s, tick_nimg = time.monotonic(), self.nimg
                    if self.config.is_snapshot(self.nimg):
                        self._snapshot()
                else:
                    reporter.step(self.nimg, losses)
                if not done and self.world.any(self._stop):
                    self._interrupt()
        return last

    def _guarded_step(self, real: RealBatch) -> dict[str, float]:
        step = self.state.step
        try:
            losses = self.step.run(real)
        except NonFiniteError as error:
            name = f"nonfinite-{kimg_label(self.nimg)}.safetensors"
            self._save(name)
            saved = f"; the state before it is in {self.folder.path / name}" if self.folder else ""
            raise NoiseganError(
                f"training stopped at step {step} ({self.nimg / 1000:g} kimg) with noise {self.noise}: {error}{saved}; "
                "start a new run with another --seed, a larger --gamma, a smaller --glr, or --precision fp32"
            ) from None
        items = batch_indices(self.streams["data"], len(self.dataset), step * self.batch, self.batch)
        self.state.certificate.note_step(step, items, self.streams)
        return losses

    def _tick(self, reporter: Reporter, seconds_s: float, images: int) -> dict[str, float]:
        """Report and record the statistics since the last tick."""
        statistics = self.state.statistics
        summary = summarise(statistics.names(), self.world.sum_(statistics.moments()))
        statistics.clear()
        if self.folder is None:
            return {}
        means = {name: value["mean"] for name, value in summary.items()}
        z, c = self._fixed_latents("probe", PROBE_SAMPLES)
        noise = StreamNoise(self.streams, ids=range(PROBE_SAMPLES), phase="probe")
        extra = {f"Noise/{key}/noise_to_signal": v for key, v in noise_to_signal(self.state.G, z, c, noise).items()}
        extra |= {f"Noise/{key}": value for key, value in learned_quantities(self.state.G).items()}
        extra["Progress/kimg"] = self.nimg / 1000
        extra["Timing/sec_per_kimg"] = seconds_s / max(images, 1) * 1000
        if self.world.device.type == "cuda":
            extra["Resources/peak_gpu_mem_gb"] = torch.cuda.max_memory_allocated(self.world.device) / 2**30
        line: dict[str, Any] = {"nimg": self.nimg, "timestamp": time.time()} | summary
        # A measurement that is not finite is recorded as null: it is news, not a reason to stop.
        line |= {
            name: {"num": 1, "mean": value if math.isfinite(value) else None, "std": 0.0}
            for name, value in extra.items()
        }
        self.folder.append_stats(line)
        reporter.tick(self.nimg, means | extra)
        return means | extra

    def _snapshot(self) -> None:
        self._save(snapshot_name(self.nimg))
        if self.folder:
            self.folder.write_json("pairing.json", self.state.certificate.as_dict())
            self._write_fakes(f"fakes{kimg_label(self.nimg)}.png")

    def _save(self, name: str) -> None:
        """Write the state, from the main process; all processes take part and leave together."""
        statistics = self.state.statistics
        moments = self.world.sum_(statistics.moments())
        # The sum lives on in the main process alone, or the next sum would count it once per process.
        statistics.replace_moments(moments if self.world.is_main else torch.zeros_like(moments))
        if self.folder:
            facts = self.options | {"nimg": self.nimg, "counters": self.state.counters()}
            save_snapshot(self.folder.path / name, self.state.tensors(), facts)
        self.world.any(False)  # nobody leaves, and takes the others down, before it is written

    def _interrupt(self) -> None:
        """Save and leave."""
        self._snapshot()
        if self.folder is None:
            raise Interrupted("interrupted with the other processes")
        files = [noise["location"] for noise in self.options["noise"] if noise["origin"] == "file"]
        words = ["noisegan", "train", "--resume", str(self.folder.path.absolute())]
        words += [word for file in dict.fromkeys(files) for word in ("--plugin", file)]
        raise Interrupted(
            f"interrupted at {self.nimg / 1000:g} kimg; the state is saved. Go on with: {shlex.join(words)}"
        )

    def _view(self) -> RunView | None:
        """What hooks may know; None off the main process."""
        if self.folder is None:
            return None
        return RunView(
            outdir=self.folder.path,
            options=self.options,
            noise=self.noise,
            device=str(self.world.device),
            world_size=self.world.size,
        )

    def _write_first_grids(self) -> None:
        if self.folder is None:
            return
        if not (self.folder.path / "reals.png").exists():
            columns = grid_size(self.dataset.resolution)
            items = batch_indices(self.streams["grid/reals"], len(self.dataset), 0, columns**2)
            save_image(make_grid(self.dataset.images(items), columns), self.folder.path / "reals.png")
        if self.state.step == 0:
            self._write_fakes("fakes_init.png")

    @torch.no_grad()
    def _write_fakes(self, name: str) -> None:
        """The sample grid: the averaged generator, the same latents and frozen noise every time."""
        assert self.folder is not None
        columns = grid_size(self.dataset.resolution)
        z, c = self._fixed_latents("grid", columns**2)
        images = []
        for ids in torch.arange(columns**2).chunk(max(1, columns**2 // self.step.micro_batch)):
            noise = StreamNoise(self.streams, ids=ids.tolist(), phase="grid")
            images.append(to_bytes(self.state.G_ema(z[ids], c[ids], noise=noise)).cpu())
        save_image(make_grid(torch.cat(images), columns), self.folder.path / name)

    def _fixed_latents(self, use: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """z [count, z_dim] and labels [count, c_dim] that never change."""
        device = self.world.device
        z = self.streams[f"z/{use}"].source(ids=range(count), device=device).normal(self.state.G.z_dim)
        items = self.streams[f"labels/{use}"].source(ids=range(count)).integers(len(self.dataset), 1)[:, 0]
        return z, self.dataset.labels(items).to(device)


class _StopSignals:
    """SIGINT and SIGTERM ask the run to stop after the step under way; a second SIGINT stops it at once."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[name] = signal.signal(name, self._note)
            except ValueError:  # not in the main thread: the caller's handlers stay
                return

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._trainer._stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._trainer._stop = True
