"""Scores of a run's snapshots, and the pictures of the one that counts: made once, kept in files, found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisegan import facade
from noisegan.api import FeatureExtractor, Score
from noisegan.compare.experiment import Experiment
from noisegan.core.checkpoint import kimg_label, read_facts, snapshots
from noisegan.core.config import TrainConfig
from noisegan.core.data import ImageDataset
from noisegan.core.generator import Generator
from noisegan.errors import NoiseganError
from noisegan.files import atomic_path, write_json
from noisegan.manager import Plugins
from noisegan.metrics.columns import INVERSION, Column, FeatureColumn, choose_columns
from noisegan.metrics.diagnostics import noise_spread
from noisegan.metrics.evaluate import evaluate, generate
from noisegan.metrics.extractors.registry import make_extractor
from noisegan.metrics.features import real_features
from noisegan.planning import pairing_data

PICTURES = "pictures.json"
ARRAYS = ("samples.npy", "noise_std.npy", "noise_images.npy")

BLOCKS, BLOCK_BYTES = 64, 4096

SMALL = 64
"""Images up to this size are shown in larger numbers."""


class Scorer:
    """How an experiment scores: its columns, extractors and real features.

    Attributes:
        columns: all scores, the primary one in front.
        features: those that every snapshot has: metrics of features. The other is `inversion`, of the snapshot that
            counts (`noisegan.compare.inverting`).

    Args:
        progress: called with (images done, images in all) while features of real images are made.

    Raises:
        NoiseganError: for an unknown metric or extractor, or missing weights.
    """

    def __init__(
        self,
        experiment: Experiment,
        plugins: Plugins,
        dataset: ImageDataset,
        device: torch.device,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.experiment, self.plugins, self.dataset, self.device = experiment, plugins, dataset, device
        self._progress = progress
        e = experiment.evaluation
        self.real_samples = min(e.real_samples, len(dataset))
        self.features = self._feature_columns(e.metrics)
        self.columns: list[Column] = list(self.features)
        if experiment.inverts:
            place = len(self._feature_columns(e.metrics[: e.metrics.index(INVERSION)]))
            self.columns.insert(place, e.inversion.column)
        self.extractors: dict[str, FeatureExtractor] = {
            name: make_extractor(name, plugins, device) for name in (e.extractors if self.features else ())
        }

    def _feature_columns(self, metrics: Sequence[str]) -> list[FeatureColumn]:
        """The columns of those metrics that are made of features."""
        names = [name for name in metrics if name != INVERSION]
        e = self.experiment.evaluation
        return (
            choose_columns(names, e.extractors, self.plugins, samples=e.samples, real_samples=self.real_samples)
            if names
            else []
        )

    @cached_property
    def real(self) -> dict[str, torch.Tensor]:
        """Features of the real images by extractor, from the cache if they are there."""
        return {
            name: real_features(self.dataset, name, extractor, self.real_samples, progress=self._progress)
            for name, extractor in self.extractors.items()
        }

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """What stands behind every number."""
        return {
            "n_real": self.real_samples,
            "n_fake": self.experiment.evaluation.samples,
            "evaluation_seeds": list(self.experiment.evaluation.seeds),
            "noise_mode": "fresh, each sample its own; equal for equal sample numbers in all variants",
            "truncation": 1.0,
            "images": "uint8, of the averaged generator",
            "feature_dtype": "float32",
            "metric_dtype": "float64",
        }

    @cached_property
    def extractor_facts(self) -> dict[str, Any]:
        return {name: extractor.describe() for name, extractor in self.extractors.items()}

    def evaluation_file(self, folder: Path, snapshot: Path, nimg: int) -> Path:
        """The file of a snapshot's scores: another protocol or another snapshot has another name."""
        key = {
            "protocol": self.protocol,
            "columns": [c.key for c in self.features],
            "metrics": [self._made_by("metric", name) for name in dict.fromkeys(c.name for c in self.features)],
            "extractors": self.extractor_facts,
            "data": self.dataset.describe() | {"path": None},
            "snapshot": snapshot_key(snapshot),
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
        return folder / f"{kimg_label(nimg)}-{digest}.json"

    def _made_by(self, kind: str, name: str) -> str:
        """Plugin and version that a metric comes from."""
        source = self.plugins.registered[kind][name][1]
        return f"{name}: {source.plugin} {source.version}"

    def score(self, snapshot: Path, target: Path, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """The scores of a snapshot, from `target` if they are there, else computed and written there.

        Returns:
            `snapshot`, `nimg`, `scores`: column key -> `value` (mean over evaluation seeds), `std_error`,
            `by_evaluation_seed`.
        """
        known = read_json(target)
        if known is not None:
            return known
        found = self._evaluate(snapshot, progress) if self.features else []
        scores = {}
        for column in self.features:
            values = [scores_of_seed[column.key].value for scores_of_seed in found]
            errors = [scores_of_seed[column.key].std_error for scores_of_seed in found]
            whole = [error for error in errors if error is not None]
            scores[column.key] = {
                "value": sum(values) / len(values),
                # Of the mean over evaluation seeds, which are independent.
                "std_error": sum(e * e for e in whole) ** 0.5 / len(whole) if len(whole) == len(errors) else None,
                "by_evaluation_seed": values,
            }
        evaluation = {"snapshot": snapshot.name, "nimg": read_facts(snapshot)["nimg"], "scores": scores}
        write_json(target, evaluation)
        return evaluation

    def _evaluate(self, snapshot: Path, progress: Callable[[int, int], None] | None) -> list[dict[str, Score]]:
        """Scores by column key, for each evaluation seed."""
        G: Generator = facade.load(snapshot, plugins=self.plugins, device=str(self.device)).G_ema
        samples, seeds = self.experiment.evaluation.samples, self.experiment.evaluation.seeds
        found = []
        for number, seed in enumerate(seeds):

            def tell(done: int, of: int, number: int = number) -> None:
                if progress:
                    progress(number * of + done, len(seeds) * of)

            shared = (self.dataset, self.features, self.extractors, self.real)
            found.append(evaluate(G, *shared, seed=seed, samples=samples, progress=tell))
        return found

    def finished(self, run: Path, config: TrainConfig, folder: Path) -> Path | None:
        """The snapshot that counts of a run that is trained on these data, scored, and has its pictures, else None."""
        if trained_nimg(run) < config.total_nimg or self.changed_data(run):
            return None
        found = scored_snapshots(run, config, self.experiment.evaluation.snapshots)
        known = [read_json(self.evaluation_file(folder, path, nimg)) for nimg, path in found]
        evaluations = [evaluation for evaluation in known if evaluation is not None]
        if len(evaluations) < len(found):
            return None
        snapshot = found[select(evaluations, self.experiment.selection, self.columns[0])][1]
        return snapshot if self._has_pictures(snapshot, folder) else None

    def changed_data(self, run: Path) -> str | None:
        """A sentence if a run was trained on other images than there are now."""
        before, now = read_facts(snapshots(run)[-1])["pairing_data"], pairing_data(self.dataset)
        if before == now:
            return None
        return (
            f"{self.experiment.train['data']} has changed since {run} was trained on it ({before} then, {now} now): "
            "restore the images, or choose another --outdir"
        )

    def _has_pictures(self, snapshot: Path, folder: Path) -> bool:
        whole = all((folder / name).exists() for name in ARRAYS)
        return whole and read_json(folder / PICTURES) == self._pictures_of(snapshot)

    def _pictures_of(self, snapshot: Path) -> dict[str, Any]:
        return {"snapshot": snapshot_key(snapshot), "seed": self.experiment.evaluation.seeds[0]}

    def draw_pictures(self, snapshot: Path, folder: Path) -> None:
        """samples.npy, noise_std.npy and noise_images.npy of a snapshot, unless they are there."""
        if self._has_pictures(snapshot, folder):
            return
        seed = self.experiment.evaluation.seeds[0]
        G: Generator = facade.load(snapshot, plugins=self.plugins, device=str(self.device)).G_ema
        small = G.resolution <= SMALL
        samples = torch.cat(list(generate(G, self.dataset, seed, 64 if small else 16)))
        spread, off = noise_spread(G, self.dataset, seed=seed, count=8 if small else 4)
        for name, array in zip(ARRAYS, (samples, spread, off), strict=True):
            _write_array(folder / name, array)
        write_json(folder / PICTURES, self._pictures_of(snapshot))


def trained_nimg(run: Path) -> int:
    """Images shown up to the last snapshot of a run folder, 0 where there is none."""
    found = snapshots(run) if run.is_dir() else []
    return int(read_facts(found[-1])["nimg"]) if found else 0


def scored_snapshots(run: Path, config: TrainConfig, which: str) -> list[tuple[int, Path]]:
    """(images shown, snapshot) of the snapshots that an evaluation asks for, oldest first.

    Those of the run's schedule, not those that an interruption left: curves do not depend on interruptions.

    Args:
        config: options of the run.
        which: `all` or `final`.
    """
    found = [(int(read_facts(path)["nimg"]), path) for path in snapshots(run)]
    found = [(nimg, path) for nimg, path in found if config.is_snapshot(nimg)]
    return found[-1:] if which == "final" else found


def select(evaluations: Sequence[Mapping[str, Any]], selection: str, primary: Column) -> int:
    """Which evaluation of a run counts: the index of the last one, or of the best by the primary column."""
    if selection == "final":
        return len(evaluations) - 1
    sign = 1 if primary.better == "lower" else -1
    return min(range(len(evaluations)), key=lambda i: sign * evaluations[i]["scores"][primary.key]["value"])


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, None where there is none.

    Raises:
        NoiseganError: when the file is there and cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise NoiseganError(f"cannot read {path}: {error}; delete it and run the command again") from None
    return content


def snapshot_key(path: Path) -> str:
    """Tells snapshots apart by their size, their description and samples of their weights, read in no time."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size} {json.dumps(read_facts(path), sort_keys=True)}".encode())
    with path.open("rb") as file:
        for place in range(BLOCKS):
            file.seek(size * place // BLOCKS)
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def _write_array(path: Path, tensor: torch.Tensor) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, tensor.numpy(), allow_pickle=False)
