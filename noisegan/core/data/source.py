"""What every kind of data set offers before any crop, resize or flip: raw images in a fixed order, and classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from noisegan.errors import NoiseganError

Pixels: TypeAlias = NDArray[np.uint8]
"""One image, [H, W, C] uint8 with C = 1, 3 or 4."""

Classes: TypeAlias = NDArray[np.int64]
"""The class of every image, [N], 0 .. K - 1, each class at least once."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (images done, images in all), always from the thread that started the work."""

T = TypeVar("T")


class Header(NamedTuple):
    """What an image will be once decoded, known without decoding it. Sizes in pixels."""

    width: int
    height: int
    channels: int

    @property
    def size(self) -> str:
        """The size as written in messages: `640x480`, width first."""
        return f"{self.width}x{self.height}"

    @property
    def nbytes(self) -> int:
        return self.width * self.height * self.channels


class Source(ABC):
    """Raw images in a fixed order. Reading is safe from several threads at once.

    `name` is the file stem or built-in name, `path` what was opened (None when the data are embedded in a library),
    `default_resize` the resize choice that a built-in data set makes when the user makes none, and `labels_place`
    says, for a message, where labels are looked for.
    """

    name: str
    path: Path | None
    default_resize: str | None = None
    labels_place: str

    @abstractmethod
    def __len__(self) -> int:
        """The number of images, 1 or more."""

    @abstractmethod
    def item(self, index: int) -> str:
        """How a message calls this image, for example `a/7.png in photos.zip`."""

    @abstractmethod
    def header(self, index: int) -> Header:
        """Size and channels of one image; NoiseganError names the image when they cannot be told or used."""

    @abstractmethod
    def read(self, index: int) -> Pixels:
        """One image, decoded, [H, W, C] uint8; NoiseganError names the image when it is corrupt."""

    @abstractmethod
    def classes(self) -> Classes | None:
        """The class of every image, [N] int64, or None when the source has no labels at all.

        Raises:
            NoiseganError: when there are labels that cannot be used.
        """

    @abstractmethod
    def stamp(self) -> list[tuple[str, int, int]]:
        """(absolute path, bytes, modification time in ns) of every file that is read; empty when there is none."""

    def headers(self, workers: int) -> list[Header]:
        """The header of every image, in order; NoiseganError names the first that is bad."""
        parts = in_chunks(len(self), workers, lambda part: [self.header(i) for i in part])
        return [header for part in parts for header in part]

    def labels(self) -> Classes:
        """The classes of a source that must have them, [N] int64.

        Raises:
            NoiseganError: when there are none, saying where they were looked for.
        """
        classes = self.classes()
        if classes is None:
            raise NoiseganError(
                f"{self.name} has no labels, which --cond needs: {self.labels_place}; add them or leave --cond out"
            )
        return classes


def in_chunks(
    n: int, workers: int, work: Callable[[range], T], progress: Progress | None = None, chunk: int = 64
) -> list[T]:
    """`work` done on the ranges that make up 0 .. n - 1, by `workers` threads (0: by this one), results in order.

    The first exception, in order, is raised; work not begun is then dropped.
    """
    parts = [range(first, min(first + chunk, n)) for first in range(0, n, chunk)]
    results: list[T] = []
    if workers == 0:
        for part in parts:
            results.append(work(part))
            if progress is not None:
                progress(part.stop, n)
        return results
    with ThreadPoolExecutor(workers, thread_name_prefix="noisegan-data") as pool:
        for part, result in zip(parts, pool.map(work, parts), strict=True):
            results.append(result)
            if progress is not None:
                progress(part.stop, n)
    return results


def file_stamp(path: Path) -> tuple[str, int, int]:
    """(absolute path, bytes, modification time in ns), by which a file is known to be unchanged."""
    status = path.stat()
    return str(path.absolute()), status.st_size, status.st_mtime_ns
