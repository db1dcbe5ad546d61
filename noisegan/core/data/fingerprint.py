"""The fingerprint of a data set: sha256 over its raw decoded images, in order, and the classes that are used.

It is the same for a folder, the zip packed from it and an array of the same pixels, whatever file format they are in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

import numpy as np
import PIL

from noisegan.core.data.source import Classes, Pixels, Progress, Source, in_chunks
from noisegan.errors import NoiseganError
from noisegan.files import atomic_path, cache_folder

CACHE_FILE = "fingerprints.json"


def image_digest(pixels: Pixels) -> bytes:
    """The digest of one raw image [H, W, C] uint8: its shape and pixels."""
    height, width, channels = pixels.shape
    digest = hashlib.sha256(f"{height} {width} {channels}\n".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def combine(digests: Iterable[bytes], classes: Classes | None) -> str:
    """`sha256:<hex>` of all images, in order, and of their classes when the data are conditional."""
    total = hashlib.sha256(b"noisegan images 1\n")
    for digest in digests:
        total.update(digest)
    if classes is not None:
        total.update(b"labels\n" + classes.astype("<i8").tobytes())
    return f"sha256:{total.hexdigest()}"


def source_fingerprint(
    source: Source, classes: Classes | None, workers: int, progress: Progress | None = None, *, cached: bool
) -> str:
    """The fingerprint of a source that is not kept in memory, by decoding every image once.

    With `cached` it is remembered in noisegan's cache for files of the same place, size and modification time.

    Raises:
        NoiseganError: naming the first image that is corrupt.
    """
    key = _key(source, classes) if cached else None
    known = _remembered().get(key) if key is not None else None
    if known is not None:
        return known
    parts = in_chunks(len(source), workers, lambda part: [image_digest(source.read(i)) for i in part], progress)
    fingerprint = combine((digest for part in parts for digest in part), classes)
    if key is not None:
        _remember(key, fingerprint)
    return fingerprint


def _key(source: Source, classes: Classes | None) -> str | None:
    stamp = source.stamp()
    if not stamp:
        return None
    # Pillow is part of it: another version may decode a JPEG to other pixels
    text = json.dumps(["noisegan images 1", PIL.__version__, classes is not None, stamp])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _remembered() -> dict[str, str]:
    try:
        entries = json.loads((cache_folder() / CACHE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, NoiseganError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {key: value for key, value in entries.items() if re.fullmatch("sha256:[0-9a-f]{64}", str(value))}


def _remember(key: str, fingerprint: str) -> None:
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / CACHE_FILE) as temporary:
            temporary.write_text(json.dumps({**_remembered(), key: fingerprint}, indent=1), encoding="utf-8")
    except (OSError, NoiseganError):
        return  # it only saves time; a cache that cannot be written is no fault
