"""Training steps of a few images with graphs or without, and what they are tried with: what tests of graphs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from recording import Recorder
from training import ALL_POINTS, SMALL

from noisegan.core.config import TrainConfig, networks
from noisegan.core.distributed import World
from noisegan.core.graphs import Capture, PhaseGraphs
from noisegan.core.images import to_float
from noisegan.core.phases import RealBatch, TrainingStep
from noisegan.core.rng import Streams
from noisegan.core.state import TrainState
from noisegan.manager import Plugins
from noisegan.planning import open_data

CPU = torch.device("cpu")
STEPS = 10
OFTEN = {"pl_interval": 2, "r1_interval": 2, "kimg": STEPS * SMALL["batch"] / 1000}


class Run:
    """Training steps on a few images, with graphs or without."""

    def __init__(self, noise: str, *files: Path, labels: int = 0, device: torch.device = CPU, **options: Any) -> None:
        config = TrainConfig(outdir="unused", noise=noise, **(SMALL | OFTEN | options)).resolve()
        self.data = open_data(config, silent=True)
        if labels:
            self.data._classes, self.data.c_dim = torch.arange(len(self.data)) % labels, labels
        arguments = networks(config, resolution=8, img_channels=1, c_dim=labels)
        strategies = Plugins([ALL_POINTS, *files], entry_points=False).parse(noise)
        self.state = TrainState(config, arguments, strategies, data="test", device=device)
        self.step = TrainingStep(self.state, config, self.data, Streams(1), World(0, 1, device))
        self.recorder = Recorder()
        self.device = device

    def captured(self, capture: Capture | None = None) -> Run:
        self.step.play = PhaseGraphs(self.step.phase, capture or self.recorder, list(self.state.injectors()))
        return self

    def go(self, steps: int = STEPS) -> list[dict[str, float]]:
        """Reports of as many steps."""
        reports = []
        for _ in range(steps):
            items = torch.arange(8) + 8 * self.state.step
            images, labels = to_float(self.data.images(items)), self.data.labels(items)
            reports.append(self.step.run(RealBatch(images.to(self.device), labels.to(self.device))))
        return reports


def assert_same_state(a: TrainState, b: TrainState) -> None:
    assert a.counters() == b.counters()
    left, right = a.tensors(), b.tensors()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].contiguous().numpy().tobytes() == right[name].contiguous().numpy().tobytes(), name


CASES: dict[str, dict[str, Any]] = {
    "additive": {"noise": "additive(strength=0.1)"},
    "fuzzy": {"noise": "fuzzy"},
    "all points": {"noise": "all_points"},
    "two players": {"noise": "filtering"},
    "schedules and penalties": {"noise": "instance + roth"},
    "labels": {"noise": "none", "labels": 3},
    "accumulation": {"noise": "additive", "batch_gpu": 4},
    "bfloat16": {"noise": "fuzzy", "precision": "bf16"},
    "float16": {"noise": "additive", "precision": "fp16"},
    "no style mixing": {"noise": "additive", "style_mixing": 0.0},
}
BUILT_IN: dict[str, dict[str, Any]] = {
    f"built-in {name}": {"noise": name, "pl_interval": 1, "r1_interval": 1}
    for name in (*sorted(Plugins(entry_points=False).strategies), "learned_metric(kind=pullback)")
}
EIGENVALUES = {"noise": "geodesic(manifold=spd_affine)", "pl_interval": 1, "r1_interval": 1}
"""On a GPU torch waits to know whether it has found them."""


EXPLODING = """
import torch
from noisegan.api import FeatureInjector, Params, StrategySpec, hookimpl

class Exploding(FeatureInjector):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.tensor(1.0))
        self.number = 1.0
    def set_progress(self, fraction):
        {statement}
    def draw(self, source):
        return source.normal(0)
    def forward(self, x, noise, w):
        return x * self.factor * self.number

@hookimpl
def register_strategies(register):
    register(StrategySpec(name="exploding", params=Params, summary="s", reference="r", identity_at_init=True,
                          feature=lambda site, p: Exploding()))
"""


CHANGES_ONCE = {
    "buffer": "self.factor = torch.tensor(1.1) if 0.65 < fraction < 0.75 else self.factor",
    "number": "self.number = 1.1 if fraction > 0.65 else 1.0",
    "tensor": "self.number = torch.tensor(1.1) if 0.65 < fraction < 0.75 else self.number",
}
CHANGES_ALWAYS = "self.number = 1 + 0.5 * fraction"
