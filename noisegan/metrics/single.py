"""Scores of one snapshot, outside a comparison."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noisegan import facade
from noisegan.core.config import TrainConfig
from noisegan.core.reporting import counting
from noisegan.core.runfolder import OPTIONS
from noisegan.errors import NoiseganError
from noisegan.files import unwritable
from noisegan.manager import Plugins
from noisegan.metrics.columns import choose_columns
from noisegan.metrics.evaluate import evaluate
from noisegan.metrics.extractors.registry import make_extractor
from noisegan.metrics.features import real_features
from noisegan.planning import open_data


def score_snapshot(
    network: str | Path,
    *,
    data: str | None = None,
    resize: str | None = None,
    crop: str | None = None,
    metrics: Sequence[str],
    extractors: Sequence[str],
    samples: int = 10_000,
    real_samples: int = 10_000,
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Score a snapshot; all metrics see the same images.

    Args:
        network: a snapshot, or a run folder, whose last snapshot is taken.
        data: real images; default: those it was trained on.
        resize, crop: how they are prepared; default: as for training.
        metrics, extractors: names; every metric is computed on every extractor.
        samples: generated images.
        real_samples: real images at most.
        seeds: evaluation seeds; each gives samples and scores of its own.
        device: `cpu`, `cuda`, `cuda:N`, `mps` or `auto`.

    Returns:
        Plain data: `snapshot`, `data` (fingerprint), `n_real`, `n_fake`, `seeds`, `noise_mode`, `extractors` (what each
        says of itself) and `scores`, a list of `key`, `title`, `better`, `seed`, `value`, `std_error`. In a run folder,
        a line for each is added to `metric-<name>.jsonl`.

    Raises:
        NoiseganError: for an unknown metric or extractor, missing weights, or data that do not fit the network.
    """
    plugins = plugins or Plugins()
    snapshot = facade.load(network, plugins=plugins, device=device)
    given = {"data": data, "resize": resize, "crop": crop}
    known = snapshot.facts["config"] | {"outdir": "."}
    config = TrainConfig(**(known | {name: value for name, value in given.items() if value is not None}))
    started_s = time.monotonic()
    dataset = open_data(config, silent=False)
    channels = snapshot.facts["networks"]["G"]["img_channels"]
    if dataset.channels != channels:
        raise NoiseganError(f"{config.data} has {dataset.channels} channels and {snapshot.path} makes {channels}")
    real_samples = min(real_samples, len(dataset))
    columns = choose_columns(metrics, extractors, plugins, samples=samples, real_samples=real_samples)
    made = {name: make_extractor(name, plugins, snapshot.device) for name in dict.fromkeys(extractors)}
    with counting("features of real images") as progress:
        real = {name: real_features(dataset, name, e, real_samples, progress=progress) for name, e in made.items()}
    scores = []
    for seed in seeds:
        with counting("generated images") as progress:
            found = evaluate(
                snapshot.G_ema, dataset, columns, made, real, seed=seed, samples=samples, progress=progress
            )
        for column in columns:
            score = found[column.key]
            scores.append(
                {"key": column.key, "title": column.title, "better": column.better, "seed": seed}
                | {"value": score.value, "std_error": score.std_error}
            )
    result = {
        "snapshot": snapshot.path.name,
        "data": dataset.fingerprint,
        "n_real": real_samples,
        "n_fake": samples,
        "seeds": list(seeds),
        "noise_mode": "fresh",
        "extractors": {name: extractor.describe() for name, extractor in made.items()},
        "scores": scores,
    }
    if (snapshot.path.parent / OPTIONS).exists():
        _append(snapshot.path.parent, result, time.monotonic() - started_s)
    return result


def _append(run: Path, result: dict[str, Any], total_s: float) -> None:
    """Add a line per score to metric-<name>.jsonl of the run folder, with the names that StyleGAN's tools use."""
    shared = {name: result[name] for name in ("data", "n_real", "n_fake", "noise_mode")}
    for score in result["scores"]:
        name, extractor = score["key"].split("@", 1)
        line = {
            "metric": score["key"],
            "results": {score["key"]: score["value"]},
            "std_error": score["std_error"],
            "seed": score["seed"],
            "snapshot": result["snapshot"],
            "extractor": result["extractors"][extractor],
            "total_time": total_s,
            "timestamp": time.time(),
        }
        path = run / f"metric-{name}.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | shared) + "\n")
        except OSError as error:
            raise unwritable(path, error) from error
