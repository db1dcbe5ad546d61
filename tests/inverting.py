"""Small comparisons with the metric `inversion`: what its tests share.

A file of tests takes the fixtures over by assignment: `data = inverting.data`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import SCORES, TRAIN, Inline, small

from noisegan.compare import runner
from noisegan.compare.executor import Notify
from noisegan.compare.worker import Job

STEPS = 3


class Watched(Inline):
    """Keeps the events; the runs of one variant can be made to fail."""

    def __init__(self, failing: str = "") -> None:
        super().__init__()
        self.failing = failing
        self.events: list[tuple[str, dict[str, Any]]] = []

    def run(self, jobs: Sequence[tuple[Job, Path]], notify: Notify) -> None:
        def note(job: Job, event: Mapping[str, Any]) -> None:
            self.events.append((job.variant, dict(event)))
            notify(job, event)

        for job, _ in jobs:
            if job.variant == self.failing:
                note(job, {"event": "failed", "error": "it broke"})
        super().run([(job, log) for job, log in jobs if job.variant != self.failing], note)


def compare(content: dict[str, Any], folder: Path, executor: Inline | None = None) -> dict[str, Any]:
    return runner.compare(content, folder, plugins=[SCORES], executor=executor or Watched(), quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six pictures that no network was trained on."""
    path = tmp_path_factory.mktemp("data") / "new.npz"
    pictures = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 1), dtype=np.uint8)
    np.savez(path, images=pictures, labels=np.arange(6) % 2)
    return str(path)


def asking(data: str, *noises: str, metrics: Sequence[str] = ("fd", "inversion"), **table: Any) -> dict[str, Any]:
    """Five steps of two variants, one replicate; four held-out images and two of each network's own."""
    content = small(*(noises or ("none", "additive(strength=0.3)")), replicates=1, train=TRAIN | {"kimg": 0.04})
    options = {"data": data, "images": 4, "own_images": 2, "steps": STEPS, "loss": "mse", "batch": 4}
    content["evaluation"] = content["evaluation"] | {"metrics": list(metrics), "inversion": options | table}
    return content


@pytest.fixture(autouse=True, scope="module")
def no_report() -> Iterator[None]:
    """Pages take most of the time of a small comparison; what is in them is looked at by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "report", lambda folder, **_: folder)
        yield


def evaluation(folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    name = Path(run["folder"]).name
    found: dict[str, Any] = json.loads((folder / "inversion" / name / "evaluation.json").read_text())
    return found
