"""A folder of a comparison as docs/results.md describes it, of numbers out of a hat: 3 variants, 4 seeds, 3 metrics.

results = make(folder)          # writes folder/results.json and the arrays, returns what was written
results["verdict"] = "..."      # a test changes what it likes
save(folder, results)
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

METRICS = [
    # key, name, extractor, title, better, level of a good run
    ("fd@efficientnet-lite0", "fd", "efficientnet-lite0", "FD (efficientnet-lite0)", "lower", 41.0),
    ("kd@efficientnet-lite0", "kd", "efficientnet-lite0", "KD (efficientnet-lite0)", "lower", 0.0042),
    ("recall@stlpips-alex", "recall", "stlpips-alex", "Recall (stlpips-alex)", "higher", 0.61),
]
EFFECTS = (0.0, -0.11, 0.015, 0.2, -0.02, 0.05)
"""Relative difference of each variant to the baseline."""
NOISES = ("additive", "fuzzy", "none", "fuzzy(alpha=0.3)", "additive(per_channel=true)", "additive + fuzzy")
KIMG = (2, 4, 8, 12, 16, 20)


def make(
    folder: Path,
    *,
    labels: tuple[str, ...] = ("additive", "fuzzy", "no noise"),
    noises: tuple[str, ...] = NOISES,
    seeds: tuple[int, ...] = (1, 2, 3, 4),
    channels: int = 1,
    resolution: int = 32,
    failed: tuple[tuple[int, int], ...] = (),
    equal_time: bool = False,
    n_images: int = 16,
) -> dict[str, Any]:
    """Write a comparison.

    Args:
        labels: of the variants, the baseline first.
        noises: what each puts in; `none` has maps of zero and no injectors.
        failed: (variant index, seed) of runs that failed.
    """
    rng = np.random.default_rng(0)
    slugs = [
        f"v{i}-{''.join(c if c.isascii() and c.isalnum() else '-' for c in label)[:30]}"
        for i, label in enumerate(labels)
    ]
    luck = {seed: rng.normal() for seed in seeds}  # what runs of one seed share
    runs = []
    for i, (label, slug) in enumerate(zip(labels, slugs, strict=True)):
        for seed in seeds:
            bad = (i, seed) in failed
            runs.append(
                _run(rng, folder, label, slug, seed, i, noises[i], luck[seed], bad, channels, resolution, n_images)
            )
    summary = [_summary(m[0], label, runs) for m in METRICS for label in labels]
    comparisons = [
        _comparison(m[0], m[4], label, labels[0], runs, len(labels) - 1) for m in METRICS for label in labels[1:]
    ]
    primary = [c for c in comparisons if c["metric"] == METRICS[0][0]]
    results = {
        "schema": "noisegan-results",
        "schema_version": 1,
        "experiment": {
            "name": "Noise on Fashion-MNIST",
            "baseline": labels[0],
            "seeds": list(seeds),
            "train": {"data": "fashion-mnist", "cfg": "tiny", "kimg": 20},
            "variants": [
                {"label": label, "noise": noise, "train": {}} for label, noise in zip(labels, noises, strict=False)
            ],
            "evaluation": {"metrics": ["fd", "kd", "recall"], "seeds": [0, 1], "samples": 10000, "snapshots": "all"},
            "selection": "final",
            "equal_time": equal_time,
            "allow_differences": [],
            "allow_unpaired": False,
            "alpha": 0.05,
        },
        "data": {
            "name": "fashion-mnist",
            "fingerprint": digest("data"),
            "n_images": 60000,
            "channels": channels,
            "resolution": resolution,
            "resize": "pad",
            "crop": None,
            "mirror": True,
            "cond": False,
            "num_classes": 10,
        },
        "environment": {"noisegan": "0.2.0", "torch": "2.9.0+cpu", "python": "3.11.2", "device": "cpu", "threads": 1},
        "variants": [
            {
                "label": label,
                "slug": slug,
                "noise": noise,
                "provenance": [
                    {
                        "strategy": noise,
                        "params": {"alpha": 0.5},
                        "plugin": "noisegan.plugins.fuzzy",
                        "origin": "built in",
                        "version": "0.2.0",
                        "location": "noisegan/plugins/fuzzy.py",
                    }
                ],
                "parameters": {"G": 1234567 + 700 * i, "D": 987654, "added": 700 * i},
                "done": sum(r["status"] == "done" for r in runs if r["variant"] == label),
                "failed": sum(r["status"] == "failed" for r in runs if r["variant"] == label),
            }
            for i, (label, slug, noise) in enumerate(zip(labels, slugs, noises, strict=False))
        ],
        "config": {
            "shared": {
                "cfg": "tiny",
                "batch": 16,
                "lr": 0.002,
                "gamma": 0.1,
                "kimg": 20,
                "betas": [0.0, 0.99],
                "crop": None,
            },
            "differing": {"noise": dict(zip(labels, noises, strict=False))},
            "allowed": [],
        },
        "pairing": {
            "paired": True,
            "problems": [],
            "certificates": [
                {
                    "variant": r["variant"],
                    "seed": r["seed"],
                    "data": "sha256:" + digest("data"),
                    "initial_weights": digest("w", r["seed"]),
                    "data_order": digest("o", r["seed"]),
                    "z": digest("z", r["seed"]),
                    "steps": 1250,
                }
                for r in runs
                if r["status"] == "done"
            ],
        },
        "extractors": {
            name: {
                "weights": f"{name} sha256:{digest(name)}",
                "input": "224 x 224, bicubic with antialiasing",
                "reference": "https://example.org/" + name,
                "comparable": False,
            }
            for name in dict.fromkeys(m[2] for m in METRICS)
        },
        "metrics": [
            {
                "key": key,
                "name": name,
                "extractor": extractor,
                "title": title,
                "better": better,
                "reference": "Heusel et al. (2017), Eq. 6",
                "primary": i == 0,
            }
            for i, (key, name, extractor, title, better, _) in enumerate(METRICS)
        ],
        "protocol": {
            "n_real": 60000,
            "n_fake": 10000,
            "evaluation_seeds": [0, 1],
            "noise_mode": "fresh",
            "truncation": 1.0,
            "images": "uint8",
            "feature_dtype": "float32",
            "metric_dtype": "float64",
            "snapshot_selection": "final",
        },
        "runs": runs,
        "summary": summary,
        "comparisons": comparisons,
        "verdict": " ".join(c["sentence"] for c in primary[:2]) or "There is nothing to compare.",
        "timing": {
            "finished": "2026-03-01T12:34:56+00:00",
            "runs": [
                {
                    "variant": r["variant"],
                    "seed": r["seed"],
                    "train_s": 700.0 + 3 * r["seed"],
                    "sec_per_kimg": 35.0 + labels.index(r["variant"]),
                    "evaluation_s": 48.2,
                    "peak_memory_gb": 1.23,
                }
                for r in runs
                if r["status"] == "done"
            ],
        },
    }
    if equal_time:
        results["timing"]["equal_time"] = {
            "seconds": 690.0,
            "runs": [
                {"variant": r["variant"], "seed": r["seed"], "nimg": 19500 - 400 * labels.index(r["variant"])}
                for r in runs
            ],
            "comparisons": comparisons,
        }
    save(folder, results)
    return results


def save(folder: Path, results: dict[str, Any]) -> None:
    (folder / "results.json").write_text(json.dumps(results, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def digest(*what: Any) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


def _run(
    rng: np.random.Generator,
    folder: Path,
    label: str,
    slug: str,
    seed: int,
    i: int,
    noise: str,
    luck: float,
    failed: bool,
    channels: int,
    resolution: int,
    n_images: int,
) -> dict[str, Any]:
    name = f"{slug}-seed{seed}"
    run: dict[str, Any] = {"variant": label, "seed": seed, "folder": f"runs/{name}"}
    if failed:
        return run | {
            "status": "failed",
            "error": "the loss is not a number after 3,200 images",
            "snapshot": None,
            "nimg": None,
            "scores": {},
            "curve": [],
            "noise": {"kimg": [], "strength": {}},
            "noise_std": None,
            "files": {},
        }
    curve = [
        {"nimg": 1000 * k, "scores": {m[0]: _score(m[5], m[4], EFFECTS[i], luck, rng.normal(), k) for m in METRICS}}
        for k in KIMG
    ]
    scores = {
        key: {
            "value": value,
            "std_error": None if "recall" in key else 0.01 * value,
            "by_evaluation_seed": [value, value],
        }
        for key, value in curve[-1]["scores"].items()
    }
    k = 4
    files = _arrays(rng, folder, name, luck, i, noise, channels, resolution, n_images, k)
    layers = [f"b{r}.conv{c}" for r in (4, 8, 16, 32) for c in (0, 1)][1:]
    injectors = [] if noise == "none" else [part.strip().partition("(")[0] for part in noise.split("+")]
    keys = [f"{layer}/{injector}" for layer in layers for injector in injectors]
    strength = {
        key: [round(0.05 + 0.3 * math.exp(-0.1 * t) * (1 + 0.2 * j) + 0.01 * rng.random(), 6) for t in range(20)]
        for j, key in enumerate(keys)
    }
    return run | {
        "status": "done",
        "error": None,
        "snapshot": f"runs/{name}/network-snapshot-000020.safetensors",
        "nimg": 20000,
        "scores": scores,
        "curve": curve,
        "noise": {"kimg": list(range(1, 21)), "strength": strength},
        "noise_std": float(np.load(folder / files["noise_std"]).mean()),
        "files": files,
    }


def _score(good: float, better: str, effect: float, luck: float, noise: float, kimg: int) -> float:
    late = math.exp(-kimg / 5)
    if better == "higher":
        return good * (1 - 0.9 * late) * (1 - effect) + 0.01 * luck + 0.006 * noise
    return good * (1 + 6 * late) * (1 + effect) * (1 + 0.03 * luck + 0.012 * noise)


def _arrays(
    rng: np.random.Generator, folder: Path, name: str, luck: float, i: int, noise: str, C: int, R: int, n: int, k: int
) -> dict[str, str]:
    """Blobs that depend on their place in the grid, on the variant a little."""
    place = folder / "evaluations" / name
    place.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[-1 : 1 : R * 1j, -1 : 1 : R * 1j]
    images = np.zeros((n, C, R, R))
    for j in range(n):
        radius = 0.5 + 0.25 * math.sin(2.1 * j) + 0.03 * i
        body = 1 / (1 + np.exp(14 * (np.hypot(x * (1 + 0.4 * math.cos(j)), y) - radius)))
        for c in range(C):
            images[j, c] = body * (1 - 0.35 * c * (j % 3) / 2) + 0.03 * rng.normal(size=(R, R))
    images = np.clip(255 * images, 0, 255).astype(np.uint8)
    edges = np.abs(np.gradient(images[:k].astype(float).mean(1), axis=-1)) / 127.5
    std = (
        np.zeros((k, R, R))
        if noise == "none"
        else (0.02 + 0.35 * (1 - 0.3 * i) * edges) * rng.uniform(0.8, 1.2, (k, R, R))
    )
    np.save(place / "samples.npy", images)
    np.save(place / "noise_images.npy", images[:k])
    np.save(place / "noise_std.npy", std.astype(np.float32))
    return {kind: f"evaluations/{name}/{kind}.npy" for kind in ("samples", "noise_std", "noise_images")}


def _interval(values: list[float]) -> list[float] | None:
    if len(values) < 2:
        return None
    half = student.ppf(0.975, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return [float(np.mean(values)) - half, float(np.mean(values)) + half]


def _std(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _summary(key: str, label: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    values = [r["scores"][key]["value"] for r in runs if r["variant"] == label and r["status"] == "done"]
    mean = float(np.mean(values)) if values else None
    return {
        "metric": key,
        "variant": label,
        "n": len(values),
        "mean": mean,
        "std": _std(values),
        "interval": _interval(values),
    }


def _comparison(
    key: str, better: str, label: str, baseline: str, runs: list[dict[str, Any]], others: int
) -> dict[str, Any]:
    of = {(r["variant"], r["seed"]): r["scores"][key]["value"] for r in runs if r["status"] == "done"}
    seeds = sorted(s for v, s in of if v == label and (baseline, s) in of)
    pairs = [
        {"seed": s, "variant": of[label, s], "baseline": of[baseline, s], "difference": of[label, s] - of[baseline, s]}
        for s in seeds
    ]
    differences = [p["difference"] for p in pairs]
    n, std, interval = len(pairs), _std(differences), _interval(differences)
    mean = float(np.mean(differences)) if differences else None
    p = None
    if mean is not None and std:
        p = float(2 * student.sf(abs(mean) / (std / math.sqrt(n)), n - 1))
    holm = None if p is None else min(1.0, p * others)
    verdict = "cannot tell"
    if mean is not None and holm is not None and holm < 0.05:
        verdict = "better" if (mean < 0) == (better == "lower") else "worse"
    return {
        "metric": key,
        "variant": label,
        "baseline": baseline,
        "pairs": pairs,
        "n": n,
        "mean_difference": mean,
        "std_difference": std,
        "interval": interval,
        "interval_method": "t",
        "interval_bca": interval,
        "p_value": p,
        "test": None if p is None else "t",
        "p_wilcoxon": None,
        "p_holm": holm,
        "smallest_detectable": None if std is None else 3.2 * std / math.sqrt(n),
        "verdict": verdict,
        "sentence": f"{label} against {baseline}: {verdict} over {n} pairs of runs"
        + (f", by {mean:.2f} with p = {holm:.3f} after Holm." if holm is not None and mean is not None else "."),
    }
