"""Real images that a network was not trained on, and how that is known.

Which images count as held out:

    fashion-mnist     the test images that it ships (t10k): the name stands for its training images everywhere else
    digits            none: all of it is trained on
    anything else     the images of --data that are not among those the network was trained on

Every candidate is compared with all training images, pixel by pixel, after both were prepared alike. Where the training
images are no longer there, or are others now, nothing can be known, and the result says so.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisegan.core.config import TrainConfig
from noisegan.core.data import ImageDataset, open_dataset
from noisegan.core.data.builtin import FASHION_SYSTEM
from noisegan.core.data.locate import open_source
from noisegan.core.reporting import counting
from noisegan.errors import NoiseganError
from noisegan.files import atomic_path, cache_folder
from noisegan.planning import open_data, pairing_data

FASHION, FASHION_TEST = "fashion-mnist", ("t10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte")
_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Chosen images.

    images: [N, C, R, R] uint8, as the network makes them.
    indices: their places in the data set; they name the images.
    classes: their labels, where labels were asked for.
    trained_on: whether each is among the training images; None where that cannot be known.
    about: for reports: path, fingerprint, preparation, how many candidates were left out, what is known.
    """

    images: Tensor
    indices: list[int]
    classes: list[int] | None
    trained_on: list[bool] | None
    about: dict[str, Any]

    @property
    def names(self) -> list[str]:
        return [f"image-{index:06d}" for index in self.indices]

    def save(self, path: Path) -> None:
        """Write all of it into an npz file, for `read_held_out` in other processes."""
        facts = {name: getattr(self, name) for name in ("indices", "classes", "trained_on", "about")}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, images=self.images.numpy(), facts=np.array(json.dumps(facts)))


def read_held_out(path: Path) -> HeldOut:
    """What `HeldOut.save` wrote.

    Raises:
        NoiseganError: when it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return HeldOut(torch.from_numpy(arrays["images"]), **json.loads(str(arrays["facts"])))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise NoiseganError(f"cannot read {path}: {error}; run the command again") from None


def choose_held_out(
    facts: Mapping[str, Any],
    *,
    count: int,
    data: str | None = None,
    resize: str | None = None,
    crop: str | None = None,
    labels: bool = False,
    seed: int = 0,
    allow_trained: bool = False,
) -> HeldOut:
    """Draw images that a network was not trained on; a larger `count` adds to those of a smaller one.

    Args:
        facts: of the network's snapshot.
        count: images wanted; fewer where there are fewer.
        data: as for training; default: what the network was trained on, which only fashion-mnist has images beside.
        resize, crop: default: as for training.
        labels: whether classes are needed. Those of a conditional network's images are told where there are any.
        seed: of the choice.
        allow_trained: draw from training images too, and tell which they are.

    Raises:
        NoiseganError: when none is held out, the images do not fit the network, or they lack labels that are needed.
    """
    if count < 1:
        raise NoiseganError(f"--images must be 1 or more, not {count}")
    trained = facts["dataset"]
    wanted = data if data is not None else str(facts["config"]["data"])
    source = _fashion_test() if wanted == FASHION else wanted
    labelled = (labels or trained["cond"]) and open_source(source).classes() is not None
    if labels and not labelled:
        raise NoiseganError(f"{wanted} has no labels, which --hard-labels needs: leave it out, or name labelled images")
    with counting("reading images") as progress:
        dataset = open_dataset(
            source,
            resolution=trained["resolution"],
            resize=resize if resize is not None else trained["resize"],
            crop=crop if crop is not None else trained["crop"],
            cond=labelled,
            progress=progress,
        )
    if dataset.channels != trained["channels"]:
        raise NoiseganError(
            f"{wanted} has {dataset.channels} channels and the network makes {trained['channels']}: name other images "
            "with --data"
        )
    seen, reason = _training_digests(facts)
    chosen: list[int] = []
    flags: list[bool] = []
    left_out = 0
    for index in np.random.default_rng(seed).permutation(len(dataset)).tolist():
        known = seen is not None and next(_digests(dataset, [index])) in seen
        if known and not allow_trained:
            left_out += 1
            continue
        chosen.append(index)
        flags.append(known)
        if len(chosen) == count:
            break
    if not chosen:
        raise NoiseganError(
            f"the network was trained on all {len(dataset)} images of {wanted}, so none is held out: name others with "
            "--data, or insist with --allow-trained"
        )
    order = np.argsort(chosen)
    indices, flags = [chosen[i] for i in order], [flags[i] for i in order]
    about = {key: value for key, value in dataset.describe().items() if key not in ("mirror", "source_size")}
    if wanted == FASHION:
        about["name"] = f"{FASHION}, test images"
    about |= {
        "drawn": len(chosen),
        "draw_seed": seed,
        "left_out_as_trained_on": left_out,
        "trained_on": sum(flags) if seen is not None else None,
        "known": reason,
    }
    classes = None
    if dataset.c_dim:
        classes = dataset.labels(indices).argmax(dim=1).tolist()
    return HeldOut(dataset.images(indices), indices, classes, flags if seen is not None else None, about)


def _fashion_test() -> Path:
    """Fashion-MNIST's test images, beside the training images or in the cache."""
    cache = cache_folder() / FASHION
    places = [FASHION_SYSTEM, cache, cache / "FashionMNIST" / "raw"]
    for path in (place / name for place in places for name in FASHION_TEST):
        if path.is_file():
            return path
    raise NoiseganError(
        f"the test images of {FASHION} are not on this machine (looked in {', '.join(map(str, places))}): put "
        f"{FASHION_TEST[0]} and its labels in {cache}, or name other images with --data"
    )


def _training_digests(facts: Mapping[str, Any]) -> tuple[set[bytes] | None, str]:
    """Digests of all training images as they were prepared, flips included, and what is known because of them."""
    config = TrainConfig(**(facts["config"] | {"outdir": "."}))
    try:
        dataset = open_data(config, silent=False)
    except NoiseganError as error:
        return None, f"not known: the training images cannot be read ({error})"
    if pairing_data(dataset) != facts["pairing_data"]:
        return None, f"not known: {config.data} holds other images now than the network was trained on"
    found = set()
    with counting("comparing with training images") as progress:
        for first in range(0, len(dataset), _CHUNK):
            found |= set(_digests(dataset, range(first, min(first + _CHUNK, len(dataset)))))
            progress(min(first + _CHUNK, len(dataset)), len(dataset))
    return found, f"every image was compared with all {len(dataset)} training images"


def _digests(dataset: ImageDataset, indices: Any) -> Iterator[bytes]:
    for image in dataset.images(list(indices)):
        yield hashlib.sha256(image.numpy().tobytes()).digest()
