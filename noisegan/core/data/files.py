"""Folders and zip files of pictures, read in the order of their relative paths, with an optional `dataset.json`."""

from __future__ import annotations

import os
import threading
import zipfile
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from noisegan.core.data.labels import classes_from_manifest
from noisegan.core.data.pictures import KNOWN, SUFFIXES, read_header, read_pixels
from noisegan.core.data.source import Classes, Header, Pixels, Source, file_stamp
from noisegan.errors import NoiseganError

MANIFEST = "dataset.json"


class PictureSource(Source):
    """Pictures by name. `names` are their relative paths with `/`, sorted."""

    names: list[str]

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """The bytes of one file."""

    @abstractmethod
    def manifest(self) -> bytes | None:
        """The text of `dataset.json`, if there is one."""

    def __len__(self) -> int:
        return len(self.names)

    def item(self, index: int) -> str:
        return f"{self.names[index]} in {self.path}"

    def header(self, index: int) -> Header:
        with self._opened(index) as handle:
            return read_header(handle, self.item(index))

    def read(self, index: int) -> Pixels:
        with self._opened(index) as handle:
            return read_pixels(handle, self.item(index))

    def classes(self) -> Classes | None:
        text = self.manifest()
        return None if text is None else classes_from_manifest(text, self.names, f"{MANIFEST} in {self.path}")

    @contextmanager
    def _opened(self, index: int) -> Iterator[BinaryIO]:
        try:
            handle = self.open(self.names[index])
        except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or error
            raise NoiseganError(f"{self.item(index)} cannot be read: {reason}; replace or remove it") from error
        with handle:
            yield handle


class FolderSource(PictureSource):
    """All pictures below a folder. Hidden files and folders, and files of other kinds, are passed over."""

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self.name = path.resolve().name
        self.labels_place = f"there is no {MANIFEST} in {path}, or its labels are null"
        found = [file.relative_to(path).as_posix() for file in _walk(path)]
        self.names = sorted(name for name in found if _is_picture(name))
        if not self.names:
            raise NoiseganError(_nothing(f"the folder {path}", found))

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def manifest(self) -> bytes | None:
        try:
            return (self.path / MANIFEST).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NoiseganError(f"{self.path / MANIFEST} cannot be read: {error.strerror or error}") from error

    def stamp(self) -> list[tuple[str, int, int]]:
        files = [self.path / name for name in (*self.names, MANIFEST)]
        return [file_stamp(file) for file in files if file.exists()]


class ZipSource(PictureSource):
    """All pictures in a zip file, which may have them in one folder at its top, `dataset.json` among them."""

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self.name = path.stem
        self.labels_place = f"there is no {MANIFEST} in {path}, or its labels are null"
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise NoiseganError(f"{path} is not a zip file, or is cut short: {error}; make it again") from error
        except OSError as error:
            raise NoiseganError(f"{path} cannot be read: {error.strerror or error}") from error
        self._lock = threading.Lock()
        files = sorted(info.filename for info in self._zip.infolist() if not info.is_dir())
        pictures = [name for name in files if _is_picture(name)]
        if not pictures:
            raise NoiseganError(_nothing(f"the zip file {path}", files))
        top = _common_folder(pictures)
        self._top = top if top + MANIFEST in files and MANIFEST not in files else ""
        self.names = [name[len(self._top) :] for name in dict.fromkeys(pictures)]

    def open(self, name: str) -> BinaryIO:
        with self._lock:  # the members of a ZipFile share one file, which has a lock of its own for reading
            return cast(BinaryIO, _Member(self._zip.open(self._top + name), self._lock))

    def manifest(self) -> bytes | None:
        if self._top + MANIFEST not in self._zip.namelist():
            return None
        try:
            with self.open(MANIFEST) as handle:
                return handle.read()
        except Exception as error:
            raise NoiseganError(f"{MANIFEST} in {self.path} cannot be read: {error}; make the zip again") from error

    def stamp(self) -> list[tuple[str, int, int]]:
        return [file_stamp(self.path)]


class _Member:
    """A member of a zip file that takes the lock to close, as the archive counts its open members."""

    def __init__(self, handle: IO[bytes], lock: threading.Lock) -> None:
        self._handle, self._lock = handle, lock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._handle.close()


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise NoiseganError(f"{error.filename} cannot be read: {error.strerror}") from error

    for root, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in files)


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in SUFFIXES


def _common_folder(names: list[str]) -> str:
    """`photos/` when every name starts with it, else an empty text."""
    tops = {name.split("/", 1)[0] + "/" if "/" in name else "" for name in names}
    return tops.pop() if len(tops) == 1 else ""


def _nothing(place: str, found: list[str]) -> str:
    """There is no picture; say so, and point at what the user may have meant."""
    arrays = [name for name in sorted(found) if "images-idx3" in name or name.endswith((".npy", ".npz", ".zip"))]
    hint = f"it holds {arrays[0]}: give that file" if arrays else "give another place or add images"
    return f"{place} holds no images ({KNOWN} are read); {hint}"
