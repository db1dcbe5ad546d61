"""Images to features: in batches, checked, and for real images remembered in noisegan's cache by their content."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from noisegan.api import FeatureExtractor
from noisegan.core.data import ImageDataset
from noisegan.core.data.source import Progress
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.files import atomic_path, cache_folder

FORMAT = 1
"""Grows when cached features of before must not be used any more."""

PREPARATION = ("resolution", "channels", "resize", "crop", "mirror")
"""What of `ImageDataset.describe` decides the pixels, beside the fingerprint of the raw images."""


def to_rgb(images: Tensor) -> Tensor:
    """uint8 [N, 1 | 3 | 4, H, W] -> [N, 3, H, W]: grey repeated, RGBA composited over white and rounded.

    Raises:
        NoiseganError: for another number of channels.
    """
    channels = images.shape[1]
    if channels == 3:
        return images
    if channels == 1:
        return images.repeat(1, 3, 1, 1)
    if channels != 4:
        raise NoiseganError(f"features are taken of images with 1, 3 or 4 channels, got {channels}")
    colour, alpha = images[:, :3].to(torch.int32), images[:, 3:].to(torch.int32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)


def extract(extractor: FeatureExtractor, images: Tensor, batch: int = 64) -> Tensor:
    """Features of uint8 images [N, C, H, W], `batch` at a time -> [N, dim] float32 on the CPU.

    Raises:
        NoiseganError: when the extractor gives another shape, no floats, or values that are not finite.
    """
    parts = [checked(extractor(to_rgb(part)), len(part), extractor.dim) for part in torch.split(images, batch)]
    return torch.cat(parts) if parts else torch.zeros(0, extractor.dim)


def real_features(
    dataset: ImageDataset,
    name: str,
    extractor: FeatureExtractor,
    count: int | None,
    *,
    batch: int = 64,
    progress: Progress | None = None,
) -> Tensor:
    """Features of real images, [n, dim] float32 on the CPU; from noisegan's cache when they were made before.

    Args:
        dataset: whose images; flips count as images when it mirrors.
        name: the extractor's name.
        count: the first `count` images of a fixed random order; None for all images in their own order.
        batch: images at a time.
        progress: called with (images done, images in all) while features are made.

    Raises:
        NoiseganError: when `count` is not 1 .. len(dataset), or the extractor fails.
    """
    n = len(dataset)
    if count is not None and not 1 <= count <= n:
        raise NoiseganError(
            f"features of {count} real images were asked for and {dataset.name} has {n}; ask for 1 to {n}"
        )
    order = torch.arange(n) if count is None else Streams(0)["eval/reals"].permutation(n)[:count]
    facts = _facts(dataset, name, extractor, count)
    path = _cache_file(facts)
    known = _read(path, facts, (len(order), extractor.dim))
    if known is not None:
        return known
    parts, done = [], 0
    for indices in torch.split(order, batch):
        parts.append(extract(extractor, dataset.images(indices), batch))
        done += len(indices)
        if progress is not None:
            progress(done, len(order))
    features = torch.cat(parts)
    _write(path, facts, features)
    return features


def checked(features: Any, n: int, dim: int, who: str = "a feature extractor") -> Tensor:
    """What an extractor returned for `n` images, [n, dim] float32 on the CPU.

    Raises:
        NoiseganError: when it has another shape, is no floats, or holds values that are not finite.
    """
    if not isinstance(features, Tensor):
        raise NoiseganError(f"{who} must return a tensor [{n}, {dim}] for {n} images, got {type(features).__name__}")
    if tuple(features.shape) != (n, dim) or not features.is_floating_point():
        kind = str(features.dtype).removeprefix("torch.")
        raise NoiseganError(f"{who} must return floats [{n}, {dim}] for {n} images, got {kind} {list(features.shape)}")
    values: Tensor = features.detach().to("cpu", torch.float32)
    bad = (~values.isfinite()).any(dim=1).nonzero()
    if len(bad):
        raise NoiseganError(
            f"{who} returned values that are not finite for {len(bad)} of {n} images, first for image "
            f"{int(bad[0])} of its batch; mend the extractor, or look whether the images can be shown"
        )
    return values


def _facts(dataset: ImageDataset, name: str, extractor: FeatureExtractor, count: int | None) -> str:
    """Everything that the features are a function of, as one line of JSON: equal facts, equal features."""
    described: Mapping[str, Any] = dataset.describe()
    facts = {
        "format": FORMAT,
        "data": dataset.fingerprint,
        "preparation": {key: described[key] for key in PREPARATION},
        "extractor": name,
        "description": extractor.describe(),
        "count": count,
        # they resize and convolve, each version with its own rounding
        "versions": {"pillow": PIL.__version__, "torch": str(torch.__version__)},
    }
    return json.dumps(facts, sort_keys=True)


def _cache_file(facts: str) -> Path:
    return cache_folder() / "features" / f"{hashlib.sha256(facts.encode()).hexdigest()}.safetensors"


def _read(path: Path, facts: str, shape: tuple[int, int]) -> Tensor | None:
    """What the cache holds, or None when it holds nothing that can be trusted."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            features: Tensor = file.get_tensor("features")
    except (OSError, safetensors.SafetensorError):
        return None
    fits = features.shape == shape and features.dtype == torch.float32
    whole = metadata.get("facts") == facts and metadata.get("sha256") == _digest(features)
    return features if fits and whole else None


def _write(path: Path, facts: str, features: Tensor) -> None:
    """Remember features. The cache only saves time: where it cannot be written, say so and go on."""
    metadata = {"facts": facts, "sha256": _digest(features)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file({"features": features}, temporary, metadata=metadata)
    except (OSError, safetensors.SafetensorError, NoiseganError) as error:
        # Python shows a warning of one place and text once, so no file name here
        reason = (error.strerror if isinstance(error, OSError) else None) or type(error.__cause__ or error).__name__
        warnings.warn(
            f"features of real images are made anew each time, for nothing can be written in {path.parent} ({reason})",
            stacklevel=2,
        )


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()
