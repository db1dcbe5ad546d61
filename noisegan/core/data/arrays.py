"""Data sets that are one array: .npy and .npz of NumPy, and IDX as MNIST ships. Nothing in them is ever unpickled."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from noisegan.core.data.labels import classes_from_array
from noisegan.core.data.source import Classes, Header, Pixels, Source, file_stamp
from noisegan.errors import NoiseganError

LAYOUTS = "[N,H,W], [N,H,W,C] or [N,C,H,W] with C = 1, 3 or 4"
IDX_IMAGES, IDX_LABELS = (8, 3), (8, 1)
"""(type, dimensions) in the third and fourth byte of an IDX file: 8 is uint8 (Y. LeCun, the MNIST database)."""


class ArraySource(Source):
    """Images [N, H, W, C] uint8 in memory or mapped from a file, with labels [N] of integers or None."""

    def __init__(
        self,
        name: str,
        images: NDArray[np.uint8],
        labels: NDArray[Any] | None,
        *,
        path: Path | None,
        labels_place: str,
        files: tuple[Path, ...] = (),
    ) -> None:
        self.name, self.path, self.labels_place = name, path, labels_place
        self._images, self._labels, self._files = images, labels, files
        self._header = Header(images.shape[2], images.shape[1], images.shape[3])

    def __len__(self) -> int:
        return len(self._images)

    def item(self, index: int) -> str:
        return f"image {index} of {self.path or self.name}"

    def header(self, index: int) -> Header:
        return self._header

    def headers(self, workers: int) -> list[Header]:
        return [self._header] * len(self)

    def read(self, index: int) -> Pixels:
        return np.ascontiguousarray(self._images[index])

    def classes(self) -> Classes | None:
        return (
            None if self._labels is None else classes_from_array(self._labels, len(self), str(self.path or self.name))
        )

    def stamp(self) -> list[tuple[str, int, int]]:
        return [file_stamp(file) for file in self._files]


def open_npy(path: Path) -> ArraySource:
    """A .npy file of images, mapped rather than loaded; it has no labels.

    Raises:
        NoiseganError: for anything but uint8 images in one of the known layouts.
    """
    images = channels_last(_load(path, mmap=True), str(path))
    place = f"a .npy file holds images alone; {path.stem}.npz with the keys images and labels can hold both"
    return ArraySource(path.stem, images, None, path=path, labels_place=place, files=(path,))


def open_npz(path: Path) -> ArraySource:
    """A .npz file with `images` and, if there are any, `labels`.

    Raises:
        NoiseganError: naming the keys found, when `images` is not among them, or as `open_npy`.
    """
    archive = _load(path, mmap=False)
    if "images" not in archive:
        found = ", ".join(sorted(archive)) or "none"
        raise NoiseganError(
            f"{path} has no array named 'images'; its keys are: {found}; name the images {LAYOUTS} 'images' and the "
            "classes [N], if any, 'labels'"
        )
    images = channels_last(archive["images"], f"'images' in {path}")
    place = f"{path} has no array named 'labels'"
    return ArraySource(path.stem, images, archive.get("labels"), path=path, labels_place=place, files=(path,))


def open_idx(path: Path, name: str | None = None) -> ArraySource:
    """An IDX or IDX.gz file of grey images, with the labels in the file that lies beside it under the usual name.

    Raises:
        NoiseganError: when either file is cut short or not what its place says.
    """
    images = read_idx(path, IDX_IMAGES)[..., None]  # [N, H, W, 1]
    if images.size == 0:
        raise NoiseganError(f"{path} holds no images: its shape is {list(images.shape[:3])}; give another file")
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    alternatives = (beside, beside.with_suffix("") if beside.suffix == ".gz" else beside.with_name(beside.name + ".gz"))
    found = next((file for file in alternatives if file != path and file.is_file()), None)
    labels = None if found is None else read_idx(found, IDX_LABELS)
    files = (path,) if found is None else (path, found)
    place = f"there is no {beside.name} beside {path}"
    stem = name or path.name.removesuffix(".gz")
    return ArraySource(stem, images, labels, path=path, labels_place=place, files=files)


def read_idx(path: Path, kind: tuple[int, int]) -> NDArray[np.uint8]:
    """The array in an IDX or IDX.gz file, which must be of this (type, dimensions).

    Raises:
        NoiseganError: for another magic number, or fewer or more bytes than its header says.
    """
    expected_magic = kind[0] << 8 | kind[1]
    try:
        with _open_gz(path) as handle:
            head = handle.read(4 + 4 * kind[1])
            magic = int.from_bytes(head[:4], "big")
            if len(head) >= 4 and magic != expected_magic:
                other = "; that is a file of labels: give the one of images" if magic == 0x801 else ""
                raise NoiseganError(
                    f"{path} is not the IDX file it should be: its magic number is {magic}, expected {expected_magic} "
                    f"(uint8, {kind[1]} dimensions){other}"
                )
            shape = [int.from_bytes(head[i : i + 4], "big") for i in range(4, len(head), 4)]
            data = handle.read()
    except (OSError, EOFError, zlib.error) as error:
        raise NoiseganError(f"{path} cannot be read: {error}; fetch the file again") from error
    if len(head) < 4 + 4 * kind[1] or len(data) != math.prod(shape):
        raise NoiseganError(
            f"{path} is cut short or damaged: its header says {shape}, {math.prod(shape)} bytes, and {len(data)} "
            "follow; fetch the file again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def channels_last(images: Any, where: str) -> NDArray[np.uint8]:
    """Images of a known layout as [N, H, W, C] uint8, without a copy.

    Raises:
        NoiseganError: for another type or shape, or no images.
    """
    shape = list(images.shape)
    if images.dtype != np.uint8:
        hint = "scale to 0..255, round and convert" if images.dtype.kind == "f" else "convert"
        raise NoiseganError(f"{where} is {images.dtype}; images must be uint8, 0..255: {hint} with .astype('uint8')")
    if images.ndim == 3:
        images = images[..., None]  # [N, H, W, 1]
    if images.ndim != 4 or not {images.shape[1], images.shape[3]} & {1, 3, 4}:
        raise NoiseganError(f"{where} has the shape {shape}; images must be {LAYOUTS}: reshape it")
    if 0 in shape:
        raise NoiseganError(f"{where} has the shape {shape}, so there are no images; give another file")
    last, first = images.shape[3] in (1, 3, 4), images.shape[1] in (1, 3, 4)
    if first and (not last or images.shape[2] == images.shape[3]):  # both fit only tiny images: take square ones
        images = np.moveaxis(images, 1, 3)
    return cast(NDArray[np.uint8], images)


def _load(path: Path, *, mmap: bool) -> Any:
    """The array of a .npy file, mapped, or the arrays of a .npz file by key (None for those that are not read)."""
    wanted = b"\x93NUMPY" if mmap else b"PK"
    with path.open("rb") as handle:
        if not handle.read(6).startswith(wanted):
            raise NoiseganError(f"{path} is not a file of NumPy's {path.suffix} format; save it again with numpy")
    try:
        if mmap:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return {key: archive[key] if key in ("images", "labels") else None for key in archive.files}
    except Exception as error:
        if isinstance(error, ValueError) and "object" in str(error).lower():
            raise NoiseganError(
                f"{path} holds Python objects, which could run code and are never loaded; store images as uint8"
            ) from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NoiseganError(f"{path} cannot be read as NumPy's {path.suffix} file: {reason}; save it again") from error


def _open_gz(path: Path) -> BinaryIO:
    with path.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path) if packed else path.open("rb"))
