"""How well the variants of a finished comparison can be inverted: the same images for every network, compared twice.

Trainings are the units that vary: each run's score is its mean over images, and scores are compared over training seeds
as all others are (`noisegan.compare.statistics`). Beside it stands the difference by image, averaged over the trained
networks of both variants: its interval is over images and holds for these networks only. With three replicates it is
much narrower and says nothing about the next training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from noisegan.compare.inversion_options import read_options
from noisegan.compare.inverting import Inverter, draw_images
from noisegan.compare.layout import Layout
from noisegan.compare.scoring import read_json
from noisegan.compare.statistics import compare_scores, holm, sentence, summarise_scores
from noisegan.core.checkpoint import read_facts
from noisegan.errors import NoiseganError
from noisegan.files import write_json
from noisegan.inversion.attribution import BINS, Roc, area, roc_curve
from noisegan.inversion.evaluate import OWN, REAL, told
from noisegan.inversion.summary import paired_tests, worst_images
from noisegan.manager import Plugins
from noisegan.paired import t_interval

SHOWN = 4
"""Pictures of either kind in a report."""
Better = Literal["lower", "higher", "none"]
MEASURES: dict[str, Better] = {
    "distance": "lower",
    "mse": "lower",
    "psnr": "higher",
    "ssim": "higher",
    "fresh_distance": "lower",
    "lost_with_fresh_noise": "none",
    "autocorrelation": "none",
    "all_lags": "none",
    "mutual_information": "none",
    "seconds": "none",
}
"""What is compared, and which direction is better; where none is, differences are told and nothing is called better."""
TITLES = {
    "distance": "distance after inversion",
    "mse": "MSE after inversion",
    "psnr": "PSNR after inversion",
    "ssim": "SSIM after inversion",
    "fresh_distance": "distance under fresh noise",
    "auc": "area under the ROC curve of attribution",
}
ROC = 60
"""Points of each ROC curve."""

Rows = list[dict[str, Any]]
Cell = tuple[str, str, str]
Curve = Mapping[str, Sequence[float]]


def invert_experiment(
    folder: str | Path, *, plugins: Plugins | None = None, device: str | None = None, **options: Any
) -> Iterator[str]:
    """Evaluate the inversion of all finished runs of a comparison, and compare the variants.

    It leaves what the metric `inversion` of the comparison leaves, and takes over what that has made.

    Args:
        folder: of the comparison. Gets inversion/<variant>-seed<n>/ (as `invert-eval` leaves it) and
            inversion/inversion.json, which the next `noisegan report` shows.
        device: default: that of the training.
        **options: fields of `InversionOptions`; those left out are as [evaluation.inversion] of the experiment says.

    Yields:
        lines for the user.

    Raises:
        NoiseganError: when the comparison is not finished, its networks were trained on different images, its
            inversions were made otherwise, or as `evaluate_inversion`.
        Interrupted: when the user stops; finished inversions are kept.
    """
    layout, plugins = Layout(folder), plugins or Plugins()
    results = read_json(layout.results)
    if results is None:
        raise NoiseganError(f"{layout.folder} holds no {layout.results.name}: finish the comparison there first")
    chosen = read_options(results["experiment"]["evaluation"].get("inversion", {}) | options)
    runs = [run for run in results["runs"] if run["status"] == "done"]
    snapshots = [layout.folder / run["folder"] / run["snapshot"] for run in runs]
    missing = [path for path in snapshots if not path.is_file()]
    if missing:
        raise NoiseganError(f"the network {missing[0]} is gone: run the comparison's command again to train it")
    facts = [read_facts(path) for path in snapshots]
    if len({each["pairing_data"] for each in facts}) > 1:
        raise NoiseganError(f"the networks of {layout.folder} were trained on different images: invert them one by one")
    held_out = draw_images(facts[0], chosen)
    inverter = Inverter(layout.inversion.parent, chosen, held_out, plugins, device or facts[0]["config"]["device"])
    yield told(held_out, chosen.images)
    names = [Path(run["folder"]).name for run in runs]
    for name, snapshot in zip(names, snapshots, strict=True):
        inverter.refuse_other(snapshot, name)
    evaluations = []
    for i, (run, name, snapshot) in enumerate(zip(runs, names, snapshots, strict=True)):
        known = inverter.evaluation(snapshot, name)
        there = "" if known is None else ", there already"
        yield f"network {i + 1} of {len(runs)}: {run['variant']}, seed {run['seed']}{there}"
        if known is None:
            for _ in inverter.invert(snapshot, name):
                pass
            known = inverter.evaluation(snapshot, name)
            assert known is not None
        evaluations.append(known)
    yield from write_inversions(layout, results, evaluations)


def write_inversions(layout: Layout, results: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Compare the variants into inversion.json; returns the sentences of the first measure.

    Args:
        results: of the comparison.
        evaluations: of its finished runs, in their order.
    """
    runs = [run for run in results["runs"] if run["status"] == "done"]
    found = compare_inversions(results, runs, evaluations)
    write_json(layout.inversion, found)
    sentences: list[str] = found["sentences"]
    return sentences


def compare_inversions(
    results: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of inversion.json.

    Args:
        results: of the comparison, for its variants, seeds, baseline and alpha.
        runs: finished runs, as results.json has them.
        evaluations: evaluation.json of each.
    """
    experiment = results["experiment"]
    labels, seeds = [v["label"] for v in experiment["variants"]], experiment["seeds"]
    baseline, alpha = experiment["baseline"], experiment["alpha"]
    rows: dict[Cell, dict[tuple[str, int], Rows]] = {}
    curves: dict[Cell, dict[str, list[Curve]]] = {}
    for run, evaluation in zip(runs, evaluations, strict=True):
        for cell in evaluation["cells"]:
            key = (cell["images"], cell["space"], cell["noise"])
            rows.setdefault(key, {})[run["variant"], run["seed"]] = cell["images_measured"]
            curves.setdefault(key, {}).setdefault(run["variant"], []).append(cell["curve"])
    cells: list[dict[str, Any]] = []
    for key, by_run in rows.items():
        parts: dict[str, set[str] | None] = {"all": None}
        if key[0] == REAL:
            parts["hard"] = hard_images(by_run)
            hard_labels = evaluations[0]["hard_labels"]
            if hard_labels:
                first = next(iter(by_run.values()))
                parts["hard_labels"] = {row["image"] for row in first if row["class"] in hard_labels}
        cells.append(
            {"images": key[0], "space": key[1], "noise": key[2]}
            | {
                part: {
                    measure: found
                    for measure in MEASURES
                    if (found := _compare(by_run, measure, labels, seeds, baseline, alpha, chosen, key[0] == REAL))
                }
                for part, chosen in parts.items()
            }
        )
    shared = ("projector", "precision", "real_images", "own_images", "hard_labels", "loss_weights")
    return {name: evaluations[0][name] for name in shared} | {
        "baseline": baseline,
        "variants": labels,
        "seeds": list(seeds),
        "alpha": alpha,
        "runs": [
            {name: run[name] for name in ("variant", "seed", "snapshot")} | {"folder": Path(run["folder"]).name}
            for run in runs
        ],
        "family": "Holm's correction is over the variants of one measure of one cell, not over cells and measures",
        "cells": cells,
        "curves": [
            {"space": key[1], "noise": key[2], "variants": {label: _curve(own) for label, own in by_variant.items()}}
            for key, by_variant in curves.items()
            if key[0] == REAL
        ],
        "histograms": [_histograms(rows, key, labels) for key in rows if key[0] == REAL and (OWN, *key[1:]) in rows],
        "shown": _shown(next(by_run for key, by_run in rows.items() if key[0] == REAL)),
        "attribution": [_attribution(rows, key, labels, seeds, baseline, alpha) for key in rows if key[0] == REAL],
        "sentences": [
            f"{cell['images']} images, {cell['space']}, noise {cell['noise']}: {c['sentence']}"
            for cell in cells
            if cell["images"] == REAL
            for c in cell["all"]["distance"]["comparisons"]
        ],
    }


def hard_images(by_run: Mapping[tuple[str, int], Rows]) -> set[str]:
    """The tenth that is hardest for all networks together: a choice by one variant would flatter the others."""
    total: dict[str, float] = {}
    for rows in by_run.values():
        for row in rows:
            total[row["image"]] = total.get(row["image"], 0.0) + row["distance"]
    return worst_images(total)


def _compare(
    by_run: Mapping[tuple[str, int], Rows],
    measure: str,
    labels: Sequence[str],
    seeds: Sequence[int],
    baseline: str,
    alpha: float,
    chosen: set[str] | None,
    paired: bool,
) -> dict[str, Any] | None:
    """One measure: scores of runs, summaries, comparisons over seeds, and by image where the images are the same.

    Runs without the measure have no score, such as the autocorrelation of a strategy without maps. An image without it
    in one of the others, such as the PSNR of equal images, is left out for all. None where nothing is left.
    """
    every = {
        run: {row["image"]: row[measure] for row in rows if row.get(measure) is not None}
        for run, rows in by_run.items()
    }
    every = {run: own for run, own in every.items() if own}
    shared = set.intersection(*map(set, every.values())) if every else set()
    values = {
        run: {name: own[name] for name in own if name in shared and (chosen is None or name in chosen)}
        for run, own in every.items()
    }
    if not any(values.values()):
        return None
    table: dict[str, list[float | None]] = {
        label: [
            float(np.mean(list(values[label, seed].values()))) if (label, seed) in values else None for seed in seeds
        ]
        for label in labels
    }
    better = MEASURES[measure]
    towards: Literal["lower", "higher"] = "lower" if better == "none" else better
    comparisons = []
    for label, comparison in compare_scores(table, baseline, better=towards, alpha=alpha).items():
        entry: dict[str, Any] = {"variant": label, "baseline": baseline} | comparison.as_dict()
        if better == "none":
            entry["verdict"] = entry["sentence"] = None
        else:
            entry["sentence"] = sentence(comparison, label, baseline, TITLES[measure])
        if paired:
            entry["by_image"] = by_image(
                [values[label, seed] for seed in seeds if {(label, seed), (baseline, seed)} <= values.keys()],
                [values[baseline, seed] for seed in seeds if {(label, seed), (baseline, seed)} <= values.keys()],
                better=better,
                alpha=alpha,
            )
        comparisons.append(entry)
    images = [entry["by_image"] for entry in comparisons if entry.get("by_image")]
    for each, p in zip(images, holm([each["p_value"] for each in images]), strict=True):
        each["p_holm"] = p
    return {
        "better": better,
        "n_images": len(next(iter(values.values()))),
        "scores": table,
        "summary": {label: summarise_scores(scores, alpha) for label, scores in table.items()},
        "comparisons": comparisons,
    }


def by_image(
    variant: Sequence[Mapping[str, float]],
    baseline: Sequence[Mapping[str, float]],
    *,
    better: Better,
    alpha: float,
) -> dict[str, Any] | None:
    """Differences by image, averaged over the networks: mean, interval and tests over images, share that is better.

    Args:
        variant, baseline: value by image, of each pair of networks.

    Returns:
        None without a pair of networks.
    """
    if not variant:
        return None
    names = list(variant[0])
    pairs = zip(variant, baseline, strict=True)
    d = np.array([[a[name] - b[name] for name in names] for a, b in pairs], np.float64).mean(axis=0)  # [images]
    interval = t_interval(d, alpha)
    return {
        "n_images": len(d),
        "n_networks": len(variant),
        "mean_difference": float(d.mean()),
        "interval": None if interval is None else list(interval),
        **paired_tests(d),
        "share_better": None if better == "none" else float(np.mean(d < 0 if better == "lower" else d > 0)),
        "holds_for": "these networks; another training may differ by more",
    }


def _curve(curves: Sequence[Curve]) -> dict[str, list[float]]:
    """Distance on held-out images after a step, mean, smallest and largest over trainings; mean seconds up to there."""
    distances = np.array([curve["distance"] for curve in curves], np.float64)  # [runs, t]
    return {
        "step": list(curves[0]["step"]),
        "seconds": np.mean([curve["seconds"] for curve in curves], axis=0).tolist(),
        "distance": distances.mean(axis=0).tolist(),
        "low": distances.min(axis=0).tolist(),
        "high": distances.max(axis=0).tolist(),
    }


def _shown(by_run: Mapping[tuple[str, int], Rows]) -> list[tuple[str, str]]:
    """(image, why) of the pictures that a report shows: the first of the draw, and the hardest of all."""
    first = [row["image"] for row in next(iter(by_run.values()))]
    hard = sorted(hard_images(by_run))[:SHOWN]
    easy = [name for name in first if name not in hard][:SHOWN]
    return [(name, "first of the draw") for name in easy] + [(name, "hard") for name in hard]


def _histograms(
    rows: Mapping[Cell, Mapping[tuple[str, int], Rows]], key: Cell, labels: Sequence[str]
) -> dict[str, Any]:
    """Distances of real and own images over common bins, by variant, all seeds together."""
    kinds = {REAL: rows[key], OWN: rows[(OWN, *key[1:])]}
    values = {
        label: {
            kind: [row["distance"] for (variant, _), own in by_run.items() if variant == label for row in own]
            for kind, by_run in kinds.items()
        }
        for label in labels
    }
    edges = np.histogram_bin_edges([d for kinds in values.values() for own in kinds.values() for d in own], BINS)
    return {
        "space": key[1],
        "noise": key[2],
        "edges": edges.tolist(),
        "counts": {
            label: {kind: np.histogram(own, edges)[0].tolist() for kind, own in kinds.items()}
            for label, kinds in values.items()
            if all(kinds.values())
        },
    }


def _attribution(
    rows: Mapping[Cell, Mapping[tuple[str, int], Rows]],
    key: Cell,
    labels: Sequence[str],
    seeds: Sequence[int],
    baseline: str,
    alpha: float,
) -> dict[str, Any]:
    """How well each network's own images are told from real ones, and whether variants differ in that."""
    own = rows.get((OWN, *key[1:]), {})
    distances = {
        run: ([row["distance"] for row in own[run]], [row["distance"] for row in real])
        for run, real in rows[key].items()
        if run in own
    }
    areas = {run: area(*both) for run, both in distances.items()}
    table: dict[str, list[float | None]] = {
        label: [areas[label, seed][0] if (label, seed) in areas else None for seed in seeds] for label in labels
    }
    comparisons = [
        {"variant": label, "baseline": baseline}
        | c.as_dict()
        | {"sentence": sentence(c, label, baseline, TITLES["auc"])}
        for label, c in compare_scores(table, baseline, better="higher", alpha=alpha).items()
    ]
    return {
        "space": key[1],
        "noise": key[2],
        "better_means": "the network's own images are told from real ones more often",
        "scores": table,
        "intervals_over_images": {f"{label}, seed {seed}": found[1] for (label, seed), found in areas.items()},
        "summary": {label: _within_one(summarise_scores(scores, alpha)) for label, scores in table.items()},
        "comparisons": comparisons,
        "roc": [{"variant": run[0], "seed": run[1]} | _thinned(roc_curve(*both)) for run, both in distances.items()],
    }


def _within_one(summary: dict[str, Any]) -> dict[str, Any]:
    """Student's interval of a mean of areas, which cannot be beyond 0 and 1."""
    interval = summary["interval"]
    return summary | {"interval": interval and np.clip(interval, 0, 1).tolist()}


def _thinned(curve: Roc) -> dict[str, list[float]]:
    """At most `ROC` points of a curve, both ends among them."""
    n = len(curve.thresholds)
    kept = np.unique(np.linspace(0, n - 1, min(ROC, n)).round().astype(int))
    return {
        "false_positives": curve.false_positives[kept].tolist(),
        "true_positives": curve.true_positives[kept].tolist(),
    }
