"""A data set written as one zip file, the way StyleGAN's tools do, so that any of them can read it.

00000/img00000000.png ... 00001/img00001000.png ... dataset.json
"""

from __future__ import annotations

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from noisegan.core.data.dataset import ImageDataset
from noisegan.core.data.files import MANIFEST
from noisegan.core.data.fingerprint import combine, image_digest
from noisegan.core.data.pictures import to_image
from noisegan.core.data.source import Progress
from noisegan.errors import NoiseganError
from noisegan.files import atomic_path

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every entry, the earliest a zip can hold: the same data give the same file."""


def check_destination(path: Path, *, force: bool) -> None:
    """Raises:
    NoiseganError: when `path` is no .zip, its folder is missing, or it is there and `force` is not given.
    """
    if path.suffix.lower() != ".zip":
        raise NoiseganError(
            f"a data set is packed into a .zip file; {path} has another suffix: name it {path.stem}.zip"
        )
    if not path.parent.is_dir():
        raise NoiseganError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    if path.exists() and not force:
        raise NoiseganError(f"{path} exists; give --force to replace it, or choose another name")


def pack_dataset(
    dataset: ImageDataset, path: Path, *, force: bool = False, workers: int = 2, progress: Progress | None = None
) -> str:
    """Write the images as PNG, uncompressed entries of a zip file, with their labels; its fingerprint is returned.

    The file appears under its name only once it is whole. `dataset.json` also records, under `packed_from`, the
    fingerprint of the source and how its images were cropped and resized.

    Raises:
        NoiseganError: as `check_destination`, or when an image turns out to be corrupt.
    """
    check_destination(path, force=force)
    total = len(dataset)
    names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(total)]
    digests: list[bytes] = []
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ThreadPoolExecutor(max(workers, 1), thread_name_prefix="noisegan-pack") as pool,
    ):
        for first in range(0, total, 64):
            part = range(first, min(first + 64, total))
            for item, (png, digest) in zip(part, pool.map(_encode, dataset.images(part)), strict=True):
                archive.writestr(zipfile.ZipInfo(names[item], EPOCH), png)
                digests.append(digest)
            if progress is not None:
                progress(part.stop, total)
        classes = dataset.labels(range(total)).argmax(1) if dataset.c_dim else None  # [N]
        described = dataset.describe()
        manifest = {
            "labels": None if classes is None else [list(pair) for pair in zip(names, classes.tolist(), strict=True)],
            "packed_from": {key: described[key] for key in ("name", "fingerprint", "source_size", "crop", "resize")},
        }
        archive.writestr(zipfile.ZipInfo(MANIFEST, EPOCH), json.dumps(manifest))
    return combine(digests, None if classes is None else classes.numpy())


def _encode(image: Tensor) -> tuple[bytes, bytes]:
    """[C, R, R] uint8 -> the PNG and the digest of the image."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()  # [R, R, C]
    buffer = io.BytesIO()
    to_image(pixels).save(buffer, "PNG")
    return buffer.getvalue(), image_digest(pixels)
