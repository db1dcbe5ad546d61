"""From what the user wrote after `--data` to a source: a built-in name, a folder, or a file of a known kind."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from noisegan.core.data.arrays import open_idx, open_npy, open_npz
from noisegan.core.data.builtin import BUILT_IN
from noisegan.core.data.files import FolderSource, ZipSource
from noisegan.core.data.pictures import SUFFIXES
from noisegan.core.data.source import Source
from noisegan.errors import NoiseganError

KINDS = "a folder or .zip of images, .npz, .npy, IDX (.gz) as MNIST ships"

_BY_SUFFIX: dict[str, Callable[[Path], Source]] = {".zip": ZipSource, ".npz": open_npz, ".npy": open_npy}
_BY_MAGIC: dict[bytes, Callable[[Path], Source]] = {
    b"PK\x03\x04": ZipSource,
    b"\x93NUM": open_npy,
    b"\x00\x00\x08\x03": open_idx,
    b"\x00\x00\x08\x01": open_idx,
}


def open_source(source: str | Path) -> Source:
    """The raw data set at a path or of a built-in name.

    A text that is a built-in name means that data set; for a file or folder of the same name write `./digits`.

    Raises:
        NoiseganError: when there is nothing there, or nothing that is read.
    """
    if not str(source):
        raise NoiseganError(f"the data set's name is empty; give {KINDS}, or a name: {', '.join(BUILT_IN)}")
    try:
        path = Path(source).expanduser()
    except RuntimeError:
        user = Path(source).parts[0]
        raise NoiseganError(
            f"there is no data set {str(source)!r}: the system knows no home folder {user}; write the whole path"
        ) from None
    if str(source) in BUILT_IN and not (isinstance(source, Path) and path.exists()):
        return BUILT_IN[str(source)]()
    try:
        if path.is_dir():
            return FolderSource(path)
        if not path.exists():
            raise NoiseganError(f"there is no data set {str(source)!r}{_hint(str(source), path)}")
        return _open_file(path)
    except OSError as error:
        raise NoiseganError(f"{path} cannot be read: {error.strerror or error}") from error


def _open_file(path: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix](path)
    if "idx3-ubyte" in path.name or suffix in (".idx", ".gz"):
        return open_idx(path)
    with path.open("rb") as handle:
        magic = handle.read(4)
    if magic in _BY_MAGIC and suffix not in SUFFIXES:
        return _BY_MAGIC[magic](path)
    what = "a single image" if suffix in SUFFIXES else f"a file of a kind that is not read ({suffix or 'no suffix'})"
    raise NoiseganError(f"{path} is {what}; a data set is {KINDS}, or a name: {', '.join(BUILT_IN)}")


def _hint(name: str, path: Path) -> str:
    """Near matches among the built-in names and the neighbours of the path."""
    if not path.parent.is_dir():
        return f": the folder {path.parent} does not exist either; give {KINDS}, or a name: {', '.join(BUILT_IN)}"
    neighbours = {} if path.name in ("", "..") else {p.name: str(p) for p in path.parent.iterdir() if p.name[0] != "."}
    known = {**neighbours, **{built_in: built_in for built_in in BUILT_IN}}
    close = difflib.get_close_matches(path.name, known, n=2, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(known[k]) for k in close) + "?"
    return f"; give {KINDS}, or a name: {', '.join(BUILT_IN)}"
