"""What was built on this machine, kept under the key of everything that it was built from.

    path = cached({"sources": digest, "compiler": "g++ 12.2"}, "libnoisegan_cpu.so", make)

calls `make(folder)` only where no such file exists. An entry is a folder `<stem>-<digest>` in `<cache>/ext`, renamed
into place when it is whole; its file is compared with a digest at every use, and made again where it was damaged. A
lock spares two processes the same work; nothing becomes wrong without it, as on file systems that have none. Where the
cache cannot be written, what is built lasts as long as the process.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from noisegan.errors import NoiseganError
from noisegan.files import cache_folder, temporary_folder, unwritable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_LIMIT_S = 120.0
"""How long a builder is waited for, in seconds. Builds take a few."""

BUILD_LOG = "build.log"
_KEY = "key.json"
_LOG = logging.getLogger("noisegan")


class BuildError(NoiseganError):
    """Something cannot be built here; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file that was built, the key it was built under, and a digest of what it held then."""

    path: Path
    key_parts: dict[str, str]
    digest: str

    @property
    def size(self) -> int:
        """Bytes of the entry's files."""
        return _size(self.path.parent)

    @property
    def intact(self) -> bool:
        """Whether the file holds what was built."""
        with suppress(OSError):
            return digest(self.path.read_bytes()) == self.digest
        return False


def folder() -> Path:
    """Where entries are kept. It may not exist yet."""
    return cache_folder() / "ext"


def cached(key_parts: Mapping[str, str], filename: str, make: Callable[[Path], None]) -> Path:
    """The file `filename` made under this key, by `make(folder)` if it is not there yet.

    Args:
        key_parts: all that the content depends on, such as sources, flags and versions, as text.
        make: writes `filename` into the folder it is given. What it writes to build.log there is kept, also when it
            raises BuildError.

    Raises:
        BuildError: from `make`, or when another process builds the same for longer than LOCK_LIMIT_S.
        NoiseganError: when neither the cache nor the system's folder for temporary files can be written.
    """
    name = _name(key_parts, filename)
    root = folder()
    try:
        return _make(root, name, key_parts, filename, make)
    except OSError as error:
        if error.errno is None:  # not of the file system: a library that `make` could not load
            raise
        refused = unwritable(root, error)
    private = _private_folder()
    if not (private / name).exists():
        _LOG.warning("noisegan: %s (NOISEGAN_CACHE); until then what is built is built again by every process", refused)
    try:
        return _make(private, name, key_parts, filename, make)
    except OSError as error:
        raise unwritable(private, error) from error


def find(filename: str, key_parts: Mapping[str, str]) -> Path | None:
    """A file made under a key that has these parts, whatever the others: built by a compiler that is not here."""
    matching = (
        entry.path
        for entry in entries()
        if entry.path.name == filename and key_parts.items() <= entry.key_parts.items() and entry.intact
    )
    return next(matching, None)


def entries() -> list[Entry]:
    """All that is in the cache. Whether its files are what was built, each tells when it is asked."""
    found = (_entry(key.parent) for key in sorted(folder().glob(f"*/{_KEY}")))
    return [entry for entry in found if entry is not None]


def clean() -> tuple[int, int]:
    """Remove all but what another process is building. Returns how many entries went and their bytes.

    Raises:
        NoiseganError: when something cannot be removed.
    """
    root = folder()
    if not root.is_dir():
        return 0, 0
    _sweep(root)
    count = size = 0
    try:
        for path in sorted(root.iterdir()):
            if path.name.startswith("."):
                continue
            size += _size(path)
            if path.is_dir():
                shutil.rmtree(path)
                count += 1
            else:
                path.unlink()
    except OSError as error:
        raise NoiseganError(f"cannot remove {error.filename}: {error.strerror}; remove {root} yourself") from error
    return count, size


def digest(*texts: str | bytes) -> str:
    """sha256 of texts, each with its length, in hex."""
    total = hashlib.sha256()
    for text in texts:
        content = text.encode() if isinstance(text, str) else text
        total.update(f"{len(content)}:".encode())
        total.update(content)
    return total.hexdigest()


def _name(key_parts: Mapping[str, str], filename: str) -> str:
    return f"{Path(filename).stem}-{digest(filename, json.dumps(dict(key_parts), sort_keys=True))[:24]}"


def _entry(place: Path) -> Entry | None:
    """The entry in a folder; a damaged one is none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        data = json.loads((place / _KEY).read_text(encoding="utf-8"))
        path = place / data["filename"]
        if path.is_file():
            return Entry(path=path, key_parts=dict(data["key_parts"]), digest=data["digest"])
    return None


def _kept(place: Path) -> Path | None:
    """The file of the entry in a folder, if it is what was built."""
    entry = _entry(place)
    return entry.path if entry is not None and entry.intact else None


def _make(root: Path, name: str, key_parts: Mapping[str, str], filename: str, make: Callable[[Path], None]) -> Path:
    """`cached` in the folder `root`, with the errors of the system as they are."""
    entry = root / name
    if (kept := _kept(entry)) is not None:
        return kept
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f".{name}.lock") as alone:
        _sweep(root, name if alone else None)
        if (kept := _kept(entry)) is not None:
            return kept
        with temporary_folder(root, f".{name}.") as temporary:
            try:
                make(temporary)
            except BuildError as error:
                log = root / f"{name}.log"
                if not (temporary / BUILD_LOG).exists():
                    raise
                (temporary / BUILD_LOG).replace(log)
                raise BuildError(f"{error}; the log is {log}") from None
            built = digest((temporary / filename).read_bytes())
            key = {"filename": filename, "key_parts": dict(key_parts), "digest": built}
            (temporary / _KEY).write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
            _flush(temporary / filename)
            shutil.rmtree(entry, ignore_errors=True)  # an entry that lost its file or was damaged
            try:
                temporary.rename(entry)
            except OSError:  # without locks another process may have been faster
                if not (entry / filename).is_file():
                    raise
    (root / f"{name}.log").unlink(missing_ok=True)  # of an earlier failure
    return entry / filename


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a lock; the system lets it go when the process ends, however it ends. Gives False where there are none.

    Raises:
        BuildError: when it is held by another for longer than LOCK_LIMIT_S.
    """
    start = time.monotonic()
    told = False
    while (held := _open_locked(path)) is None:
        if time.monotonic() - start > LOCK_LIMIT_S:
            raise BuildError(
                f"{_holder(path)} has been building noisegan's operations for more than {LOCK_LIMIT_S:g} s and holds "
                f"the lock {path}; stop it and try again"
            )
        if not told:
            _LOG.warning("noisegan: waiting for %s, which is building the same operations ...", _holder(path))
            told = True
        time.sleep(0.05)
    handle, alone = held
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield alone
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held: see _open_locked
        os.close(handle)


def _open_locked(path: Path) -> tuple[int, bool] | None:
    """A file that is locked while it is open, or (False) that cannot be; None when another has it."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        locked = _flock(handle)
        if locked is False:
            os.close(handle)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle, locked is True
        os.close(handle)  # its holder removed it before letting go


def _flock(handle: int) -> bool | None:
    """Lock an open file: True done, False another has it, None there are no locks here."""
    if fcntl is None:
        return None  # type: ignore[unreachable]
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace") or "another process"
    return "another process"


def _sweep(root: Path, mine: str | None = None) -> None:
    """Remove the folders and locks of builders that were killed: nobody holds their lock, or the caller does.

    Args:
        mine: name of the entry whose lock the caller holds.
    """
    for path in root.glob(".*"):
        name = path.name[1:].rpartition(".")[0]
        lock = root / f".{name}.lock"
        if name == mine:
            if path != lock:
                shutil.rmtree(path, ignore_errors=True)
            continue
        with suppress(OSError):
            held = _open_locked(lock)
            if held is None:
                continue
            handle, alone = held
            try:
                if alone and path != lock:
                    shutil.rmtree(path, ignore_errors=True)
                if alone:
                    lock.unlink()
            finally:
                os.close(handle)


@cache
def _private_folder() -> Path:
    """A folder for this process alone, removed at its end unless it holds the log of a failure."""
    try:
        private = Path(tempfile.mkdtemp(prefix="noisegan-"))
    except OSError as error:
        raise unwritable(tempfile.gettempdir(), error) from error

    def remove() -> None:
        if not list(private.glob("*.log")):
            shutil.rmtree(private, ignore_errors=True)

    atexit.register(remove)
    return private


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _flush(path: Path) -> None:
    """Raises:
    FileNotFoundError: when `make` has not made it.
    """
    handle = os.open(path, os.O_RDWR)  # Windows flushes nothing that is open for reading only
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def no_space(text: str) -> None:
    """Raises:
    OSError: when a tool's output says that the disk or the user's share of it is full, so that another place is tried.
    """
    for number in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(number) in text:
            raise OSError(number, os.strerror(number))
