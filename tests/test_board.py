"""What a user sees while a comparison runs, and its last words."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from noisegan.compare.board import Board, print_verdict
from noisegan.compare.worker import Job
from noisegan.manager import Plugins
from noisegan.metrics.columns import choose_columns

JOBS = [Job("out", label, seed) for seed in (0, 1) for label in ("none", "fuzzy")]


def show(console: Console, plugins: Plugins, *events: tuple[int, dict[str, Any]]) -> Board:
    (column,) = choose_columns(["fd"], ["st-lpips-alex"], plugins, samples=99, real_samples=99)
    with Board(JOBS, column, console) as board:
        for job, event in events:
            board.note(JOBS[job], event)
    return board


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


EVENTS = (
    (0, {"event": "progress", "nimg": 500, "total": 2000, "img_per_s": 25.0}),
    (1, {"event": "scoring", "done": 10, "of": 40}),
    (1, {"event": "score", "nimg": 2000, "scores": {"fd@st-lpips-alex": 0.012345}}),
    (2, {"event": "failed", "error": "the disk is full"}),
    (3, {"event": "done"}),
)


def test_a_terminal_shows_a_row_for_each_run(plugins: Plugins) -> None:
    console = terminal()
    board = show(console, plugins, *EVENTS)
    rows = text(console).splitlines()
    assert any("none" in r and "training" in r and "25%" in r and "25.0" in r and "1 min" in r for r in rows)
    assert any("fuzzy" in r and "scoring" in r and "25%" in r and "0.012345" in r for r in rows)
    assert any("failed" in r for r in rows)
    assert any("fuzzy" in r and "done" in r and "100%" in r for r in rows)
    assert board.errors == {("none", 1): "the disk is full"}


def test_past_its_total_a_run_has_no_time_left(plugins: Plugins) -> None:
    console = terminal()
    show(console, plugins, (0, {"event": "progress", "nimg": 2010, "total": 2000, "img_per_s": 25.0}))
    assert "0 min" in text(console)
    assert "-0 min" not in text(console)


def test_elsewhere_there_is_a_line_for_what_happened(plugins: Plugins) -> None:
    console = Console(file=io.StringIO(), width=40)
    show(console, plugins, *EVENTS)
    assert [line.split("min")[1].strip() for line in text(console).splitlines()] == [
        "fuzzy, seed 0: 2 kimg: FD (st-lpips-alex) 0.012345",
        "none, seed 1: failed: the disk is full",
        "fuzzy, seed 1: done",
    ]


def test_inverting_is_seen(plugins: Plugins) -> None:
    events = [
        (0, {"event": "inverting", "done": 1, "of": 4}),
        (0, {"event": "score", "nimg": 2000, "scores": {"inversion": 0.5}}),  # not the primary one
    ]
    console = terminal()
    show(console, plugins, *events)
    assert any("none" in r and "inverting" in r and "25%" in r for r in text(console).splitlines())
    console = Console(file=io.StringIO(), width=40)
    show(console, plugins, *events)
    assert [line.split("min")[1].strip() for line in text(console).splitlines()] == ["none, seed 0: inverting, 25%"]


def test_a_quiet_one_shows_nothing(plugins: Plugins) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, quiet=True)
    show(console, plugins, *EVENTS)
    assert text(console) == ""


@pytest.mark.parametrize("interval", [[-3.0, 1.0], None])
def test_the_last_words_are_the_verdict_and_the_page(interval: list[float] | None) -> None:
    results = {
        "experiment": {"baseline": "none"},
        "metrics": [{"key": "fd@x", "title": "FD (x)", "better": "lower", "primary": True}],
        "summary": [
            {"metric": "fd@x", "variant": "none", "n": 3, "mean": 10.0},
            {"metric": "fd@x", "variant": "fuzzy", "n": 3, "mean": 9.0},
        ],
        "comparisons": [
            {"metric": "fd@x", "variant": "fuzzy", "mean_difference": -1.0, "interval": interval}
            | {"p_holm": 0.04 if interval else None, "verdict": "cannot tell"}
        ],
        "verdict": "This budget cannot tell.",
    }
    console = Console(file=io.StringIO(), width=100)
    print_verdict(results, Path("out"), console)
    lines = text(console).splitlines()
    assert any("fuzzy" in line and "-1" in line and "cannot tell" in line for line in lines)
    assert ("-3 to 1" in text(console)) == (interval is not None)
    assert lines[-2:] == ["This budget cannot tell.", str(Path("out/report/index.html"))]
