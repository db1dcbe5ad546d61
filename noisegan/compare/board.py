"""What a user sees while a comparison runs: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from noisegan.compare.worker import Job
from noisegan.metrics.columns import Column


@dataclass
class _Row:
    """The state of one run."""

    state: str = "waiting"
    share: float = 0.0
    speed: float | None = None
    left_s: float | None = None
    score: float | None = None


class Board:
    """Follows the events of all runs.

    Args:
        jobs: all of them.
        primary: whose last score is shown.
        console: where to.

    Attributes:
        errors: why runs failed, by (label, seed).
    """

    def __init__(self, jobs: Sequence[Job], primary: Column, console: Console) -> None:
        self._rows = {(job.variant, job.seed): _Row() for job in jobs}
        self._primary, self._console = primary, console
        self._started_s = time.monotonic()
        self._live = Live(console=console, get_renderable=self._table, auto_refresh=True, refresh_per_second=2)
        self.errors: dict[tuple[str, int], str] = {}

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, job: Job, event: Mapping[str, Any]) -> None:
        """Take in one event of a worker."""
        row = self._rows[job.variant, job.seed]
        match event["event"]:
            case "progress":
                row.state, row.share = "training", event["nimg"] / event["total"]
                row.speed = event["img_per_s"]
                row.left_s = max(event["total"] - event["nimg"], 0) / row.speed if row.speed else None
            case "waiting":
                row.state = "waiting for its folder"
            case "stopping":
                row.state = "saving"
                self._line(job, "stopping, its state is being saved")
            case "trained":
                row.state, row.share, row.left_s = "trained", 1.0, None
                self._line(job, "trained")
            case "scoring":
                row.state, row.share = "scoring", event["done"] / event["of"]
            case "inverting":
                row.state, row.share = "inverting", event["done"] / event["of"]
                self._line(job, f"inverting, {row.share:.0%}")
            case "score" if self._primary.key in event["scores"]:
                row.score = event["scores"][self._primary.key]
                self._line(job, f"{event['nimg'] / 1000:g} kimg: {self._primary.title} {row.score:.5g}")
            case "done":
                row.state, row.share = "done", 1.0
                self._line(job, "done")
            case "failed":
                row.state = "failed"
                self.errors[job.variant, job.seed] = event["error"]
                self._line(job, f"failed: {event['error']}")

    def _line(self, job: Job, text: str) -> None:
        if not self._console.is_terminal:
            minutes = (time.monotonic() - self._started_s) / 60
            line = f"{minutes:6.1f} min  {job.variant}, seed {job.seed}: {text}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("variant", "seed", "", "done", "img/s", "left", self._primary.title):
            table.add_column(Text(title), justify="left" if title in ("variant", "") else "right")
        for (label, seed), row in self._rows.items():
            table.add_row(
                Text(label),
                str(seed),
                row.state,
                f"{row.share:.0%}",
                f"{row.speed:.1f}" if row.speed else "",
                f"{row.left_s / 60:.0f} min" if row.left_s is not None and row.state == "training" else "",
                f"{row.score:.5g}" if row.score is not None else "",
                style={"failed": "red", "done": "dim"}.get(row.state),
            )
        return table


def print_verdict(results: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """The table of a comparison's primary metric, its verdict, and where the report is."""
    console = console or Console(soft_wrap=True)
    primary = next(metric for metric in results["metrics"] if metric["primary"])
    means = {entry["variant"]: entry for entry in results["summary"] if entry["metric"] == primary["key"]}
    found = {entry["variant"]: entry for entry in results["comparisons"] if entry["metric"] == primary["key"]}
    better = f"{primary['better']} is better"
    table = Table(title=Text(f"{primary['title']} ({better})"), title_justify="left", box=None, pad_edge=False)
    table.add_column("variant", overflow="fold")
    for title in ("n", "mean", f"minus {results['experiment']['baseline']}", "interval", "p"):
        table.add_column(Text(title), justify="right", overflow="fold")
    table.add_column("verdict")
    for label, entry in means.items():
        comparison = found.get(label)
        row: list[Text | str] = [Text(label), str(entry["n"]), _number(entry["mean"])]
        if comparison is None:
            table.add_row(*row, "", "", "", "baseline")
            continue
        low, high = comparison["interval"] or (None, None)
        interval = f"{_number(low)} to {_number(high)}" if low is not None else ""
        p = f"{comparison['p_holm']:.3f}" if comparison["p_holm"] is not None else ""
        table.add_row(*row, _number(comparison["mean_difference"]), interval, p, comparison["verdict"])
    console.print(table)
    console.print(results["verdict"], highlight=False, markup=False)
    console.print(str(folder / "report" / "index.html"), highlight=False, markup=False)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
