"""What the tests of comparisons share: the smallest experiment there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from training import SMALL, TESTS

from noisegan.cli import main
from noisegan.compare import runner
from noisegan.compare.executor import Notify
from noisegan.compare.report import figures
from noisegan.compare.worker import Job, work
from noisegan.errors import NoiseganError

SCORES = TESTS / "plugin_scores.py"
TRAIN = {name: value for name, value in SMALL.items() if name not in ("seed", "outdir")} | {"kimg": 0.08, "snap": 1}
"""Ten steps of eight 8 x 8 digits; a snapshot at 40 and at 80 images."""


def small(*noises: str, **content: Any) -> dict[str, Any]:
    """An experiment over these strategies, two replicates each."""
    return {
        "name": "small",
        "replicates": 2,
        "train": TRAIN,
        "variants": [{"noise": noise} for noise in noises or ("none", "additive")],
        "evaluation": {"metrics": ["fd", "brightness"], "extractors": ["pixels"], "samples": 16, "real_samples": 64},
    } | content


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key != "timing"}


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def toml(experiment: dict[str, Any]) -> str:
    """An experiment as the text of its file."""
    lines = [f"{key} = {_value(value)}" for key, value in experiment.items() if key not in _TABLES]
    for table in ("train", "evaluation"):
        if table in experiment:
            lines += [f"[{table}]", *(f"{key} = {_value(value)}" for key, value in experiment[table].items())]
    for variant in experiment["variants"]:
        lines += ["[[variants]]", *(f"{key} = {_value(value)}" for key, value in variant.items())]
    return "\n".join(lines) + "\n"


_TABLES = ("train", "evaluation", "variants")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(own)}" for key, own in value.items()) + "}"
    return json.dumps(value)


class Inline:
    """An executor that works in this process: no interpreter to start for each run."""

    def __init__(self, plugins: Sequence[Path] = (SCORES,)) -> None:
        self._plugins = tuple(map(str, plugins))

    def run(self, jobs: Sequence[tuple[Job, Path]], notify: Notify) -> None:
        for job, _ in jobs:
            try:
                work(
                    replace(job, plugins=self._plugins),
                    lambda event, job=job, **facts: notify(job, {"event": event} | facts),
                )
                notify(job, {"event": "done"})
            except NoiseganError as error:
                notify(job, {"event": "failed", "error": str(error)})


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of commands are worked on in this process."""
    monkeypatch.setattr(runner, "LocalExecutor", lambda *_: Inline())


def run_here(*words: str) -> int:
    """The exit status of the command line in this process."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert isinstance(stop.value.code, int)
    return stop.value.code


def compare(content: dict[str, Any], folder: Path, *, drawn: bool = False) -> dict[str, Any]:
    """`noisegan.compare` in this process, with the tests' plugin; one figure for all of the report unless `drawn`."""
    figure = _any_figure()
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr(figures, "_render", lambda *_: figure)
        return runner.compare(content, folder, plugins=[SCORES], executor=Inline(), quiet=True)


@cache
def _any_figure() -> figures.Drawing:
    return figures.color_scale(1.0, "any")
