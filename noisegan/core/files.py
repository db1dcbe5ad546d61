"""Files that are either whole or not there: written under a temporary name, flushed to disk, then renamed.

with atomic_path(run / "network.safetensors") as temporary:
    save_file(tensors, temporary)
write_json(run / "training_options.json", options)
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from noisegan.errors import NoiseganError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, `.<name>.<random>.tmp`, that becomes `path` when the block ends well.

    The file is there, empty, when the block starts. At the end it is flushed to disk,
    renamed over `path`, and its folder is flushed. When the block raises, the temporary file is removed and whatever
    was at `path` stays as it was.

    Raises:
        NoiseganError: when `path` is a folder, or its folder is missing or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise NoiseganError(f"cannot write the file {path}: there is a folder of that name; choose another name")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # the umask decides who may read
    except OSError as error:
        raise NoiseganError(f"cannot write {path}: {error.strerror or error}") from error
    mode = temporary.stat().st_mode
    try:
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
    """Where noisegan keeps what it can make again: $NOISEGAN_CACHE, else ~/.cache/noisegan. It may not exist yet."""
    chosen = os.environ.get("NOISEGAN_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "noisegan"


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
