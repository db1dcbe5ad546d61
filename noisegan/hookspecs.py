"""Every hook that a plugin may implement. pluggy calls them; none ever runs inside a forward pass.

A plugin is a module (or package) with functions marked `@noisegan.api.hookimpl`. It is found through an entry point of
the group `noisegan`, or given as a file with `--plugin FILE.py`. An implementation may name any subset of a hook's
arguments, without defaults. Lifecycle hooks run on rank 0 only, get frozen views and return nothing; an exception in
one stops the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy

from noisegan.api import FeatureExtractor, Metric, StrategySpec

hookspec = pluggy.HookspecMarker("noisegan")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """What a lifecycle hook may know of a run: its folder, resolved options, strategy expression and place."""

    outdir: Path
    options: Mapping[str, Any]
    noise: str
    device: str
    world_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepView:
    """One finished training step: its number from 0, real images shown so far, and its losses by name."""

    step: int
    nimg: int
    losses: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryView:
    """How a run ended: images shown, seconds spent by this process, last snapshot, last tick's statistics."""

    nimg: int
    seconds_s: float
    snapshot: Path
    stats: Mapping[str, float]


@hookspec
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    """Call `register(spec)` for each noise strategy. Once, when plugins are loaded, on every rank."""


@hookspec
def register_metrics(register: Callable[[str, Metric], None]) -> None:
    """Call `register(name, metric)` for each metric. Once, when plugins are loaded, on every rank."""


@hookspec
def register_manifolds(register: Callable[[str, Any], None]) -> None:
    """Call `register(name, manifold_class)` for each manifold. Once, when plugins are loaded, on every rank."""


@hookspec
def manifolds_registered(manifolds: Mapping[str, Any]) -> None:
    """All registered manifold classes by name, for whoever finds them by name. Each time plugins have been loaded, on
    every rank."""


@hookspec
def register_feature_extractors(register: Callable[[str, Callable[[Any], FeatureExtractor]], None]) -> None:
    """Call `register(name, factory)` for each feature extractor; `factory(device)` makes it, when it is used. Once,
    when plugins are loaded, on every rank."""


@hookspec
def before_train(run: RunView) -> None:
    """Before the first step of this process, after any resume. Once, rank 0."""


@hookspec
def after_step(run: RunView, step: StepView) -> None:
    """After each training step. Rank 0; keep it cheap."""


@hookspec
def after_evaluation(run: RunView, report: Mapping[str, Any]) -> None:
    """After a comparison has scored a snapshot of a run. `report` holds `snapshot`, `nimg` and `scores`."""


@hookspec
def on_train_error(run: RunView, error: BaseException) -> None:
    """When training stops with an error other than the user's interruption. At most once, rank 0."""


@hookspec
def after_train(run: RunView, summary: SummaryView) -> None:
    """After the last snapshot of a finished run. Once, rank 0."""


@hookspec
def report_sections(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Extra sections of a comparison report as (title, HTML) pairs. `results` is the content of results.json, described
    in docs/results.md. Once per report."""
    return []
