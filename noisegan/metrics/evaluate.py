"""One evaluation: one set of generated images, shared by all extractors and metrics.

The latents, labels and noise of sample i depend on the evaluation seed and on i alone, so two generators that differ in
their noise strategy are scored on the same latents, and each sees the same noise every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from noisegan.api import FeatureExtractor, FeaturePair, Score
from noisegan.core.data import ImageDataset
from noisegan.core.generator import Generator
from noisegan.core.images import to_bytes
from noisegan.core.noise import StreamNoise
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.metrics.columns import FeatureColumn
from noisegan.metrics.features import extract

BATCH = 50
"""Images made at a time. Every number is the same with another batch, up to the rounding of the networks."""


def latents(G: Generator, dataset: ImageDataset, seed: int, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """z [N, z_dim] and labels [N, c_dim] of the samples `ids`; labels have the frequencies of the data."""
    device = G.mapping.w_avg.device
    streams = Streams(seed)
    z = streams["eval/z"].source(ids=ids, device=device).normal(G.z_dim)
    items = streams["eval/labels"].source(ids=ids).integers(len(dataset), 1)[:, 0]
    return z, dataset.labels(items).to(device)


@torch.no_grad()
def generate(G: Generator, dataset: ImageDataset, seed: int, count: int, batch: int = BATCH) -> Iterator[Tensor]:
    """The samples 0 .. count - 1 of an evaluation seed: [n, C, R, R] uint8 on the CPU, a batch at a time.

    No truncation; each sample has noise of its own, as in training.
    """
    streams = Streams(seed)
    for first in range(0, count, batch):
        ids = range(first, min(first + batch, count))
        z, c = latents(G, dataset, seed, ids)
        yield to_bytes(G(z, c, noise=StreamNoise(streams, ids=ids, phase="eval"))).cpu()


def evaluate(
    G: Generator,
    dataset: ImageDataset,
    columns: Sequence[FeatureColumn],
    extractors: Mapping[str, FeatureExtractor],
    real: Mapping[str, Tensor],
    *,
    seed: int,
    samples: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Score]:
    """All scores of a generator.

    Args:
        G: in evaluation mode, on its device.
        dataset: what it was trained on; gives the labels.
        columns: what to compute.
        extractors: by name, one for each extractor in `columns`.
        real: features of real images by extractor, [n, dim].
        seed: evaluation seed.
        samples: number of generated images.
        progress: called with (images done, images in all).

    Returns:
        A score by column key.

    Raises:
        NoiseganError: when features or a score are not finite; the message names the extractor or the metric.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in extractors}
    done = 0
    for images in generate(G, dataset, seed, samples):
        for name, extractor in extractors.items():
            parts[name].append(extract(extractor, images))
        done += len(images)
        if progress:
            progress(done, samples)
    pairs = {name: FeaturePair(real[name], torch.cat(features)) for name, features in parts.items()}
    scores = {}
    for column in columns:
        scores[column.key] = _checked(column, column.metric.compute(pairs[column.extractor]))
    return scores


def _checked(column: FeatureColumn, score: Score) -> Score:
    """The score with plain numbers in it, which must be finite."""
    where = f"the metric {column.name!r} on {column.extractor!r}"
    if not isinstance(score, Score):
        raise NoiseganError(f"{where} gave {score!r} where a noisegan.api.Score was expected")
    value, error = float(score.value), None if score.std_error is None else float(score.std_error)
    for number, what in ((value, "is"), (error, "has the standard error")):
        if number is not None and not math.isfinite(number):
            raise NoiseganError(f"{where} {what} {number}, which is not a finite number")
    return Score(value=value, std_error=error)
