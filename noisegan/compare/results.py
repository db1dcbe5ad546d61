"""results.json: everything a comparison found, read from the files of its runs. docs/results.md describes it.

All but the key `timing` is a function of the experiment.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisegan import __version__
from noisegan.api import Strategy
from noisegan.compare.experiment import Experiment, Variant
from noisegan.compare.inverting import Inverter
from noisegan.compare.layout import Layout
from noisegan.compare.pairing import (
    config_differences,
    pairing_problems,
    refuse_unpaired,
    strange_differences,
)
from noisegan.compare.report.results import SCHEMA, SCHEMA_VERSION
from noisegan.compare.scoring import Scorer, read_json, scored_snapshots, select
from noisegan.compare.statistics import compare_scores, sentence, summarise_scores, verdict
from noisegan.compare.worker import TIMING
from noisegan.core.checkpoint import read_facts
from noisegan.core.config import networks
from noisegan.core.discriminator import Discriminator
from noisegan.core.generator import Generator
from noisegan.metrics.columns import INVERSION, Column, describe_column
from noisegan.planning import noise_record

GPU_MEMORY = "Resources/peak_gpu_mem_gb"


@dataclass
class Run:
    """What the files of one run say: scores of its snapshots, the one that counts, and how that could be inverted."""

    variant: Variant
    seed: int
    error: str | None
    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    chosen: int = -1
    inversion: dict[str, Any] | None = None
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.error is None

    def value(self, key: str) -> float | None:
        """The score that counts."""
        return self.scores[key]["value"] if self.done else None


def gather(
    layout: Layout, scorer: Scorer, errors: Mapping[tuple[str, int], str], inverter: Inverter | None = None
) -> list[Run]:
    """Read all runs of an experiment.

    Args:
        errors: why a run failed, by (label, seed).
        inverter: where the metric `inversion` is asked for.
    """
    experiment = scorer.experiment
    runs = []
    for variant in experiment.variants:
        for seed in experiment.seeds or ():
            run = Run(variant, seed, errors.get((variant.label, seed)), layout.run(variant, seed))
            if run.done:
                config = experiment.config(variant, seed).resolve()
                found = scored_snapshots(run.folder, config, experiment.evaluation.snapshots)
                run.facts = read_facts(found[-1][1])
                target = layout.evaluations(variant, seed)
                for nimg, snapshot in found:
                    evaluation = read_json(scorer.evaluation_file(target, snapshot, nimg))
                    assert evaluation is not None, f"{snapshot} has no scores"
                    run.evaluations.append(evaluation)
                run.chosen = select(run.evaluations, experiment.selection, scorer.columns[0])
                run.scores = dict(run.evaluations[run.chosen]["scores"])
                if inverter is not None:
                    run.inversion = inverter.evaluation(found[run.chosen][1], run.folder.name)
                    assert run.inversion is not None, f"{run.folder} was not inverted"
                    run.scores[INVERSION] = inverter.score(run.inversion)
            runs.append(run)
    return runs


def build_results(
    layout: Layout, scorer: Scorer, runs: Sequence[Run], *, threads: int, inverter: Inverter | None = None
) -> dict[str, Any]:
    """The content of results.json.

    Raises:
        NoiseganError: when the runs are not paired and the experiment does not insist.
    """
    experiment, done = scorer.experiment, [run for run in runs if run.done]
    # Of the snapshot itself, which is whole whenever the run was killed.
    certificates = {(r.variant.label, r.seed): r.facts["counters"]["pairing"] for r in done}
    shared, differing = config_differences({(r.variant.label, r.seed): r.facts["config"] for r in done})
    problems = pairing_problems(certificates, experiment.baseline)
    problems += strange_differences(differing, experiment.allow_differences)
    if not experiment.allow_unpaired:
        refuse_unpaired(problems)
    suffix = _suffix(experiment, paired=not problems)
    tables = {
        column.key: {label: [r.value(column.key) for r in runs if r.variant.label == label] for label in _labels(runs)}
        for column in scorer.columns
    }
    comparisons = [c for column in scorer.columns for c in _compare(column, tables[column.key], experiment, suffix)]
    timing: dict[str, Any] = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "runs": [_timing(layout, r) for r in done],
    }
    if experiment.equal_time:
        timing["equal_time"] = _equal_time(layout, scorer, runs)
    data = scorer.dataset.describe()
    protocol = scorer.protocol | {"snapshot_selection": experiment.selection}
    if inverter is not None:
        protocol[INVERSION] = inverter.protocol
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment.as_dict(),
        "verdict": _verdict(scorer, comparisons, suffix),
        "data": {key: value for key, value in data.items() if key not in ("path", "source_size")},
        "environment": {
            "noisegan": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": str(scorer.device),
            "threads": threads,
        },
        "variants": _variants(scorer, runs),
        "config": {"shared": shared, "differing": differing, "allowed": list(experiment.allow_differences)},
        "pairing": {
            "paired": not problems,
            "problems": problems,
            "certificates": [{"variant": label, **c} for (label, _), c in certificates.items()],
        },
        "extractors": scorer.extractor_facts,
        "metrics": [
            describe_column(column) | {"title": column.title + suffix, "primary": i == 0}
            for i, column in enumerate(scorer.columns)
        ],
        "protocol": protocol,
        "runs": [_run(layout, run) for run in runs],
        "summary": [
            {
                "metric": key,
                "variant": label,
                **summarise_scores([v for v in values if v is not None], experiment.alpha),
            }
            for key, table in tables.items()
            for label, values in table.items()
        ],
        "comparisons": comparisons,
        "timing": timing,
    }


def _suffix(experiment: Experiment, *, paired: bool) -> str:
    """What has to stand beside every score, wherever it is copied to."""
    best = ", best snapshot" if experiment.selection == "best" else ""
    return best + ("" if paired else ", not paired")


def _labels(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.variant.label for run in runs))


def _compare(
    column: Column, table: Mapping[str, Sequence[float | None]], experiment: Experiment, suffix: str
) -> list[dict[str, Any]]:
    """The comparisons of one metric, a dict for each variant beside the baseline."""
    found = compare_scores(table, experiment.baseline, better=column.better, alpha=experiment.alpha)
    entries = []
    for label, comparison in found.items():
        pairs = [
            {"seed": seed, "variant": a, "baseline": b, "difference": a - b}
            for seed, a, b in zip(experiment.seeds or (), table[label], table[experiment.baseline], strict=True)
            if a is not None and b is not None
        ]
        entries.append(
            {"metric": column.key, "variant": label, "baseline": experiment.baseline, "pairs": pairs}
            | comparison.as_dict()
            | {"sentence": sentence(comparison, label, experiment.baseline, column.title + suffix)}
        )
    return entries


def _verdict(scorer: Scorer, comparisons: Sequence[Mapping[str, Any]], suffix: str) -> str:
    primary, replicates = scorer.columns[0], len(scorer.experiment.seeds or ())
    own = [c for c in comparisons if c["metric"] == primary.key]
    return verdict(own, primary.title + suffix, replicates=replicates)


def _variants(scorer: Scorer, runs: Sequence[Run]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for variant in scorer.experiment.variants:
        own = [run for run in runs if run.variant == variant]
        strategies = scorer.plugins.parse(variant.noise)
        now = noise_record(strategies, scorer.plugins)
        entries.append(
            {
                "label": variant.label,
                "slug": variant.slug,
                "noise": variant.noise,
                "provenance": next((run.facts["noise"] for run in own if run.done), now),
                "parameters": _parameters(scorer, variant, strategies),
                "done": sum(run.done for run in own),
                "failed": sum(not run.done for run in own),
            }
        )
    baseline = next(e["parameters"]["G"] for e in entries if e["label"] == scorer.experiment.baseline)
    for entry in entries:
        entry["parameters"]["added"] = entry["parameters"]["G"] - baseline
    return entries


def _parameters(scorer: Scorer, variant: Variant, strategies: tuple[Strategy, ...]) -> dict[str, int]:
    """Numbers of trained parameters of G, its noise among them, and of D."""
    config, dataset = scorer.experiment.config(variant, 0).resolve(), scorer.dataset
    shapes = networks(config, resolution=dataset.resolution, img_channels=dataset.channels, c_dim=dataset.c_dim)
    G, D = Generator(**shapes["G"], noise=strategies), Discriminator(**shapes["D"])
    return {"G": sum(p.numel() for p in G.parameters()), "D": sum(p.numel() for p in D.parameters())}


def _run(layout: Layout, run: Run) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "variant": run.variant.label,
        "seed": run.seed,
        "status": "done" if run.done else "failed",
        "error": run.error,
        "folder": run.folder.relative_to(layout.folder).as_posix(),
    }
    if not run.done:
        return entry
    target = layout.evaluations(run.variant, run.seed)
    chosen = run.evaluations[run.chosen]
    arrays = {name: target / f"{name}.npy" for name in ("samples", "noise_std", "noise_images")}
    return entry | {
        "snapshot": chosen["snapshot"],
        "nimg": chosen["nimg"],
        "scores": run.scores,
        "curve": [
            {"nimg": e["nimg"], "scores": {key: score["value"] for key, score in e["scores"].items()}}
            for e in run.evaluations
        ],
        "noise": _strength(_stats(run)),
        "noise_std": float(np.load(arrays["noise_std"], allow_pickle=False).mean(dtype=np.float64)),
        "files": {name: path.relative_to(layout.folder).as_posix() for name, path in arrays.items()},
    }


def _stats(run: Run) -> list[dict[str, Any]]:
    """The lines of stats.jsonl."""
    text = (run.folder / "stats.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _strength(stats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Noise-to-signal ratio of each injector over training."""
    prefix, suffix = "Noise/", "/noise_to_signal"
    names = [name for name in (stats[0] if stats else ()) if name.startswith(prefix) and name.endswith(suffix)]
    return {
        "kimg": [line["nimg"] / 1000 for line in stats],
        "strength": {n[len(prefix) : -len(suffix)]: [line[n]["mean"] for line in stats] for n in names},
    }


def _timing(layout: Layout, run: Run) -> dict[str, Any]:
    measured = read_json(layout.evaluations(run.variant, run.seed) / TIMING) or {}
    stats = _stats(run)
    gpu = [line[GPU_MEMORY]["mean"] for line in stats if GPU_MEMORY in line]
    nimg, train_s = _train_seconds(stats)[-1]
    return {
        "variant": run.variant.label,
        "seed": run.seed,
        "train_s": train_s,
        "sec_per_kimg": train_s / nimg * 1000,
        "evaluation_s": measured.get("evaluation_s"),
        "peak_memory_gb": max(gpu) if gpu else measured.get("peak_memory_gb"),
    }


def _train_seconds(stats: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(images shown, seconds of training up to there) at each report."""
    found, before, total_s = [], 0, 0.0
    for line in stats:
        total_s += line["Timing/sec_per_kimg"]["mean"] * (line["nimg"] - before) / 1000
        before = line["nimg"]
        found.append((before, total_s))
    return found


def _equal_time(layout: Layout, scorer: Scorer, runs: Sequence[Run]) -> dict[str, Any]:
    """The comparison at the training time of the fastest run: of each run, the last snapshot that it had by then."""
    done = [run for run in runs if run.done]
    clocks = {id(run): dict(_train_seconds(_stats(run))) for run in done}
    budget_s = min((max(clock.values()) for clock in clocks.values()), default=math.inf)
    reached: dict[int, dict[str, Any]] = {}
    for run in done:
        clock = clocks[id(run)]
        within = [e for e in run.evaluations if clock.get(e["nimg"], math.inf) <= budget_s]
        if within:
            reached[id(run)] = within[-1]
    comparisons = []
    for column in scorer.features:
        table = {
            label: [
                reached[id(run)]["scores"][column.key]["value"] if id(run) in reached else None
                for run in runs
                if run.variant.label == label
            ]
            for label in _labels(runs)
        }
        comparisons += _compare(column, table, scorer.experiment, ", equal time")
    return {
        "seconds": budget_s,
        "runs": [
            {"variant": r.variant.label, "seed": r.seed, "nimg": reached[id(r)]["nimg"]}
            for r in done
            if id(r) in reached
        ],
        "comparisons": comparisons,
    }
