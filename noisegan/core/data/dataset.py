"""The data set of a run: square uint8 images of one size, their labels, and a record of where they came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisegan.core.data.fingerprint import combine, image_digest, source_fingerprint
from noisegan.core.data.fit import Fit, check_channels, choose_fit
from noisegan.core.data.locate import open_source
from noisegan.core.data.source import Classes, Header, Progress, Source, in_chunks
from noisegan.errors import NoiseganError

MEMORY_LIMIT = 2**30
"""Bytes of images up to which all are decoded at the start and kept; larger sets are decoded batch by batch."""
MEASURED = 10_000
"""Images behind `ImageDataset.deviation` where there are more."""


def open_dataset(
    source: str | Path,
    *,
    resolution: int | None = None,
    resize: str | None = None,
    crop: str | None = None,
    mirror: bool = False,
    cond: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
) -> ImageDataset:
    """Open a data set for a run.

    Args:
        source: a folder or zip of images, .npz, .npy, IDX, or a built-in name (`digits`, `fashion-mnist`).
        resolution: pixels of a side, a power of two from 8 to 1024; None keeps the size of the images.
        resize: `lanczos`, `bicubic`, `box`, `nearest` or `pad`; needed when the size changes.
        crop: `center` takes the largest centred square.
        mirror: add the horizontal flip of every image.
        cond: use the labels.
        workers: threads that decode; 0 decodes in the caller's.
        progress: called with (images done, images in all) while images are decoded.

    Raises:
        NoiseganError: for whatever the user can mend: a missing or corrupt file, sizes or colours that differ, ...
    """
    if workers < 0:
        raise NoiseganError(f"workers must be 0 or more, got {workers}")
    raw = open_source(source)
    classes = raw.labels() if cond else None
    headers = raw.headers(workers)
    channels = check_channels(raw, headers)
    fit = choose_fit(raw, headers, resolution, resize, crop)
    return ImageDataset(raw, headers, fit, channels, classes, mirror=mirror, workers=workers, progress=progress)


class ImageDataset:
    """Images of one size and their labels; made by `open_dataset`. Reading is safe from several threads at once.

    Attributes:
        name: the stem of the file, or the built-in name.
        resolution: pixels of a side, a power of two from 8 to 1024.
        channels: 1, 3 or 4.
        c_dim: the number of classes of a conditional data set, else 0.
        fingerprint: `sha256:<hex>` of the raw images, before crop and resize, in order, and of the labels when
            conditional; the same for a folder, its packed zip and an array of the same pixels.
    """

    def __init__(
        self,
        source: Source,
        headers: Sequence[Header],
        fit: Fit,
        channels: int,
        classes: Classes | None,
        *,
        mirror: bool,
        workers: int,
        progress: Progress | None,
    ) -> None:
        self.name = source.name
        self.resolution = fit.resolution
        self.channels = channels
        self.c_dim = 0 if classes is None else int(classes.max()) + 1
        self._source, self._headers, self._fit = source, headers, fit
        self._classes = None if classes is None else torch.from_numpy(classes)  # [n]
        self._n, self._mirror, self._workers = len(source), mirror, workers
        self._pixels: Tensor | None = None  # [n, C, R, R] uint8
        self._pool: ThreadPoolExecutor | None = None
        if self._n * channels * fit.resolution**2 <= MEMORY_LIMIT:
            self.fingerprint = self._decode_all(classes, progress)
        else:
            self._pool = ThreadPoolExecutor(workers, thread_name_prefix="noisegan-data") if workers else None
            self.fingerprint = source_fingerprint(source, classes, workers, progress, cached=True)

    def __len__(self) -> int:
        """The number of images, flips included: with mirror, item i >= n is the horizontal flip of item i - n."""
        return self._n * 2 if self._mirror else self._n

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """These images, [N, C, R, R] uint8 on the CPU.

        Raises:
            IndexError: for an index that is not 0 .. len - 1.
            NoiseganError: naming the image, when a large set is decoded as needed and one has become unreadable.
        """
        index = self._index(indices)
        base = index % self._n
        if self._pixels is not None:
            pixels = self._pixels.index_select(0, base)  # [N, C, R, R], a copy; 20 times as fast as [base] on uint8
        else:
            pixels = torch.empty(len(base), self.channels, self.resolution, self.resolution, dtype=torch.uint8)
            decode = map if self._pool is None else self._pool.map
            for row, image in zip(pixels, decode(self._decode, base.tolist()), strict=True):
                row.copy_(image)
        flipped = (index >= self._n).nonzero()[:, 0]  # the rows to flip
        if len(flipped):
            pixels.index_copy_(0, flipped, pixels.index_select(0, flipped).flip(3))
        return pixels

    def labels(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The labels of these images, one-hot, [N, c_dim] float32; [N, 0] when the data are not conditional.

        Raises:
            IndexError: for an index that is not 0 .. len - 1.
        """
        index = self._index(indices)
        if self._classes is None:
            return torch.zeros(len(index), 0)
        return torch.nn.functional.one_hot(self._classes[index % self._n], self.c_dim).to(torch.float32)

    def deviation(self) -> float:
        """Standard deviation of pixel values in [-1, 1], over all pixels and channels, about the overall mean.

        Over all images, or over `MEASURED` evenly spaced ones where there are more. Pixels are counted by value, in
        whole numbers, so every process finds the same bits.
        """
        n = min(self._n, MEASURED)
        items = torch.arange(n) * self._n // n  # flips have the same pixels
        counts = torch.zeros(256, dtype=torch.int64)
        for part in items.split(64):
            counts += torch.bincount(self.images(part).flatten(), minlength=256)
        of_value: list[int] = counts.tolist()
        pixels = sum(of_value)
        total = sum(count * value for value, count in enumerate(of_value))
        squares = sum(count * value * value for value, count in enumerate(of_value))
        return math.sqrt(pixels * squares - total * total) / (127.5 * pixels)

    def describe(self) -> dict[str, Any]:
        """What a run must record about its data; plain values, ready for JSON. Sizes are [height, width] in pixels."""
        sizes = {(header.height, header.width) for header in self._headers}
        return {
            "name": self.name,
            "path": None if self._source.path is None else str(self._source.path.absolute()),
            "fingerprint": self.fingerprint,
            "n_images": self._n,
            "source_size": list(sizes.pop()) if len(sizes) == 1 else None,
            "channels": self.channels,
            "resolution": self.resolution,
            "resize": self._fit.resize,
            "crop": self._fit.crop,
            "mirror": self._mirror,
            "cond": self._classes is not None,
            "num_classes": self.c_dim,
        }

    def _index(self, indices: Sequence[int] | Tensor) -> Tensor:
        index = torch.as_tensor(indices, dtype=torch.int64, device="cpu")
        bad = index[(index < 0) | (index >= len(self))]
        if len(bad):
            raise IndexError(f"image {int(bad[0])} of {self.name}: there are {len(self)}, numbered from 0")
        return index

    def _decode(self, item: int) -> Tensor:
        """[C, R, R] uint8."""
        return self._fitted(item, self._source.read(item))

    def _fitted(self, item: int, raw: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        if raw.shape != (self._headers[item].height, self._headers[item].width, self.channels):
            raise NoiseganError(f"{self._source.item(item)} has changed since the data set was opened; start again")
        return torch.from_numpy(self._fit(raw).transpose(2, 0, 1).copy())

    def _decode_all(self, classes: Classes | None, progress: Progress | None) -> str:
        """Fill the memory and return the fingerprint."""
        store = torch.empty(self._n, self.channels, self.resolution, self.resolution, dtype=torch.uint8)

        def decode(part: range) -> list[bytes]:
            digests = []
            for item in part:
                raw = self._source.read(item)
                digests.append(image_digest(raw))
                store[item] = self._fitted(item, raw)
            return digests

        parts = in_chunks(self._n, self._workers, decode, progress)
        self._pixels = store
        return combine((digest for part in parts for digest in part), classes)
