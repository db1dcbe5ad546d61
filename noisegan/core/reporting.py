"""What a user sees while a run trains: a progress bar on a terminal, a line per tick, TensorBoard if it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from noisegan.core.runfolder import RunFolder

SHOWN = {"Loss/G/loss": "G", "Loss/D/loss": "D", "Loss/r1_penalty": "r1", "Loss/pl_penalty": "pl"}


class Reporter:
    """Reports of one run. Without a folder (every process but the main one) it is silent.

    Args:
        folder: the run folder; ticks are written to its log.txt too.
        total_nimg: images at the end of the run.
        start_nimg: images at the start of this process.
        quiet: write the log only.
    """

    def __init__(self, folder: RunFolder | None, total_nimg: int, start_nimg: int, *, quiet: bool = False) -> None:
        self._folder = folder
        self._console = Console(quiet=quiet or folder is None)
        self._total, self._start = total_nimg, start_nimg
        self._started_s = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.fields[kimg]:>9} kimg"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[speed]}  {task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total_nimg, completed=start_nimg, kimg="", speed="", losses="")
        self._board = _tensorboard(folder, start_nimg)

    def __enter__(self) -> Reporter:
        self._started_s = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._board is not None:
            self._board.close()

    def line(self, text: str) -> None:
        """Print a line and log it."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        if self._folder:
            self._folder.log(text)

    def step(self, nimg: int, losses: Mapping[str, float]) -> None:
        """After a step between ticks."""
        text = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        speed = f"{self._speed(nimg):.1f} img/s"
        self._progress.update(self._task, completed=nimg, kimg=f"{nimg / 1000:.3f}", speed=speed, losses=text)

    def tick(self, nimg: int, stats: Mapping[str, float]) -> None:
        """After a tick."""
        losses = "  ".join(f"{short} {stats[name]:.3f}" for name, short in SHOWN.items() if name in stats)
        speed = 1000 / max(stats["Timing/sec_per_kimg"], 1e-9)
        left_s = max(self._total - nimg, 0) / max(self._speed(nimg), 1e-9)  # the last step may pass the total
        self.line(f"kimg {nimg / 1000:<9.3f} {speed:6.1f} img/s  {losses}  left {left_s:.0f} s")
        self.step(nimg, {})
        if self._board is not None:
            for name, value in stats.items():
                self._board.add_scalar(name, value, nimg)

    def _speed(self, nimg: int) -> float:
        """Images per second since the start of this process."""
        return (nimg - self._start) / max(time.monotonic() - self._started_s, 1e-9)


@contextmanager
def counting(what: str, *, silent: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, when that is a terminal; the function it gives is called with (done, in all)."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=silent or not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _tensorboard(folder: RunFolder | None, start_nimg: int) -> Any:
    """A TensorBoard writer where that package is installed, else None. Events later than the start are taken back."""
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder.path), purge_step=start_nimg + 1 if start_nimg else None)
