"""What is in a data set as it lies there, before any choice of size: a description, and all that is wrong with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from noisegan.core.data.fingerprint import source_fingerprint
from noisegan.core.data.fit import RESOLUTIONS
from noisegan.core.data.locate import open_source
from noisegan.core.data.source import Header, Progress, in_chunks
from noisegan.errors import NoiseganError

CACHE_FROM = 2**30
"""Bytes of raw images from which the fingerprint is remembered in the cache."""


def describe_raw(
    source: str | Path, *, cond: bool = False, workers: int = 2, progress: Progress | None = None
) -> dict[str, Any]:
    """`ImageDataset.describe()` of a data set as it lies there, plus what is said below; ready for JSON.

    `resolution` and `source_size` are None when images differ in size or no generator has that size, `channels` when
    they differ in colour. `default_resize` is the choice of a built-in set. `sizes` counts images by "WxH".
    `class_counts` is None without labels, and `labels_fault` then says why those that are there, if any, are of no use.

    Raises:
        NoiseganError: naming the first image that is corrupt, or when `cond` and there are no usable labels.
    """
    raw = open_source(source)
    headers = raw.headers(workers)
    fault = None
    try:
        classes = raw.labels() if cond else raw.classes()
    except NoiseganError as error:
        if cond:
            raise
        classes, fault = None, str(error)
    used = classes if cond else None
    cached = sum(header.nbytes for header in headers) > CACHE_FROM
    sizes = Counter(header[:2] for header in headers)
    width, height = next(iter(sizes)) if len(sizes) == 1 else (None, None)
    colours = {header.channels for header in headers}
    return {
        "name": raw.name,
        "path": None if raw.path is None else str(raw.path.absolute()),
        "fingerprint": source_fingerprint(raw, used, workers, progress, cached=cached),
        "n_images": len(raw),
        "source_size": None if width is None else [height, width],
        "channels": colours.pop() if len(colours) == 1 else None,
        "resolution": width if width == height and width in RESOLUTIONS else None,
        "resize": None,
        "crop": None,
        "mirror": False,
        "cond": cond,
        "num_classes": 0 if used is None else int(used.max()) + 1,
        "default_resize": raw.default_resize,
        "sizes": {f"{w}x{h}": count for (w, h), count in sizes.most_common()},
        "class_counts": None if classes is None else {str(k): n for k, n in sorted(Counter(classes.tolist()).items())},
        "labels_fault": fault,
    }


def find_faults(source: str | Path, *, workers: int = 2, progress: Progress | None = None) -> tuple[int, list[str]]:
    """The number of images, and one sentence for each that keeps the set from being used, and for unusable labels.

    An image is at fault when it is corrupt, of a kind that is not read, not square, or unlike most in size or colour.
    """
    raw = open_source(source)

    def inspect(index: int) -> Header | str:
        try:
            header = raw.header(index)
            raw.read(index)
        except NoiseganError as error:
            return str(error)
        return header

    parts = in_chunks(len(raw), workers, lambda part: [inspect(i) for i in part], progress)
    found = [result for part in parts for result in part]
    headers = [header for header in found if isinstance(header, Header)]
    size = Counter(header.size for header in headers).most_common(1)
    colour = Counter(header.channels for header in headers).most_common(1)
    faults = []
    for index, result in enumerate(found):
        if isinstance(result, str):
            faults.append(result)
            continue
        reasons = []
        if result.size != size[0][0]:
            reasons.append(f"is {result.size}, most are {size[0][0]}")
        if result.width != result.height:
            reasons.append("is not square" if reasons else f"is not square ({result.size})")
        if result.channels != colour[0][0]:
            reasons.append(f"has {result.channels} channels, most have {colour[0][0]}")
        if reasons:
            faults.append(f"{raw.item(index)} {' and '.join(reasons)}")
    try:
        raw.classes()
    except NoiseganError as error:
        faults.append(str(error))
    return len(raw), faults
