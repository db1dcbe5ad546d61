"""Files and folders that are either whole or not there: written under a temporary name, then renamed.

with atomic_path(run / "network.safetensors") as temporary:
    save_file(tensors, temporary)
write_json(run / "training_options.json", options)
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from noisegan.errors import NoiseganError

_CURES = {
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some space or choose another place",
    errno.ENOENT: "make its folder first",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def unwritable(path: str | Path, error: OSError) -> NoiseganError:
    """The sentence for an error of the system while `path` was written: what failed, why, what to do."""
    cure = _CURES.get(error.errno or 0, "choose a place that can be written")
    return NoiseganError(f"cannot write {path}: {error.strerror or error}; {cure}")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, `.<name>.<random>.tmp`, that becomes `path` when the block ends well.

    The file is there, empty, when the block starts. At the end it is flushed to disk,
    renamed over `path`, and its folder is flushed. When the block raises, the temporary file is removed and whatever
    was at `path` stays as it was.

    Raises:
        NoiseganError: when `path` is a folder, its folder is missing or cannot be written, or the system refuses
            something in the block or at its end, as on a full disk.
    """
    path = Path(path)
    try:
        with _replacing(path) as temporary:
            yield temporary
    except BrokenPipeError:  # of something else that the block writes to
        raise
    except OSError as error:
        raise unwritable(path, error) from error


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """`atomic_path` with the errors of the system as they are."""
    if path.is_dir():
        raise NoiseganError(f"cannot write the file {path}: there is a folder of that name; choose another name")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # the umask decides who may read
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # a writer that replaced the file may have narrowed it
        _flush(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some file systems cannot flush a folder; the file itself is safe
        _flush(path.parent)


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent` to be filled and renamed; what still has its temporary name at the end is removed.

    Raises:
        OSError: when it cannot be made.
    """
    folder = parent / f"{prefix}{secrets.token_hex(4)}"
    folder.mkdir()  # the umask decides who may read
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: str | Path, data: Any) -> None:
    """Write `data` as indented JSON with a newline at its end, atomically. Paths in it become strings.

    Raises:
        NoiseganError: when the file cannot be written.
        TypeError, ValueError: for what JSON cannot hold, NaN and infinities among it; nothing is written then.
    """
    text = json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False, default=_plain)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def cache_folder() -> Path:
    """Where noisegan keeps what it can make again: $NOISEGAN_CACHE, else ~/.cache/noisegan. It may not exist yet.

    A relative path is one below the folder that is current now; the result is absolute.

    Raises:
        NoiseganError: when it begins with the home folder of a user that the system does not know.
    """
    chosen = os.environ.get("NOISEGAN_CACHE") or "~/.cache/noisegan"
    try:
        return Path(chosen).expanduser().absolute()
    except RuntimeError:
        raise NoiseganError(
            f"noisegan's cache {chosen} cannot be found: the system knows no such home folder; "
            "set NOISEGAN_CACHE to a whole path"
        ) from None


def _plain(value: Any) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"JSON cannot hold a {type(value).__name__}")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
