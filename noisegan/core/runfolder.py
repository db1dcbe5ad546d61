"""The folder of a run: its number and name, its log, its statistics; one writer at a time."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from noisegan.errors import NoiseganError
from noisegan.files import atomic_path, temporary_folder, unwritable, write_json

try:
    import fcntl
except ImportError:  # Windows: without a lock two writers are not noticed
    fcntl = None  # type: ignore[assignment]


OPTIONS = "training_options.json"
DESC_LENGTH = 100
"""Characters a run's description may have: with its number it is a folder's name, of 255 bytes at most."""


class BusyError(NoiseganError):
    """Another process is at work in the folder."""


class RunFolder:
    """An open run folder; `create` and `open` make one. Close it to let another process in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = lock_folder(path, f"another process is training in {path}: wait for it or stop it")
        try:
            for stale in path.glob(".*.tmp"):  # left by a killed process, which cannot be writing any more
                stale.unlink(missing_ok=True)
            (path / "log.txt").open("a").close()  # a folder that cannot be written is refused now
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, outdir: str | Path, desc: str, options: Mapping[str, Any]) -> RunFolder:
        """Make `<outdir>/<number>-<desc>`, the number one above the highest there, with its options inside.

        The folder gets its name when the options are in it, so a kill at any moment leaves a run that can be resumed
        or none.

        Raises:
            NoiseganError: when it cannot be made, or `desc` is none for `check_desc`; nothing is left behind.
        """
        check_desc(desc)
        return cls._make(Path(outdir), options, lambda temporary: _number(temporary, desc))

    @classmethod
    def create_at(cls, path: str | Path, options: Mapping[str, Any]) -> RunFolder:
        """Make the run folder `path` itself, without a number; otherwise as `create`."""
        path = Path(path)
        return cls._make(path.parent, options, lambda temporary: temporary.rename(path))

    @classmethod
    def _make(cls, outdir: Path, options: Mapping[str, Any], name: Callable[[Path], Path]) -> RunFolder:
        try:
            outdir.mkdir(parents=True, exist_ok=True)
            with temporary_folder(outdir, ".new-run-") as temporary:
                write_json(temporary / OPTIONS, {"outdir": str(outdir)} | dict(options))
                path = name(temporary)
            return cls(path)
        except OSError as error:
            why = error.strerror or error
            raise NoiseganError(f"cannot write to the output folder {outdir}: {why}; choose another --outdir") from None

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run folder to go on in it.

        Raises:
            NoiseganError: when it is none, cannot be written, or another process trains in it.
        """
        path = Path(path)
        if not (path / OPTIONS).is_file():
            raise NoiseganError(f"{path} is not a run folder: it has no {OPTIONS}")
        try:
            return cls(path)
        except OSError as error:
            raise NoiseganError(f"cannot write to the run folder {path}: {error.strerror or error}") from None

    def log(self, line: str) -> None:
        """Add a line to log.txt; also after `close`, so that how a run ended can be told there.

        Raises:
            NoiseganError: when it cannot be written.
        """
        path = self.path / "log.txt"
        try:  # opened for each line: a line that failed is not tried again when the file is closed
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
        except OSError as error:
            raise unwritable(path, error) from error

    def append_stats(self, line: Mapping[str, Any]) -> None:
        """Add a line to stats.jsonl; a kill or a full disk in the middle leaves at most that line torn.

        Raises:
            NoiseganError: when it cannot be written.
        """
        path = self.path / "stats.jsonl"
        text = json.dumps(line, allow_nan=False) + "\n"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(path, error) from error

    def rewind_stats(self, nimg: int) -> None:
        """Drop torn lines and lines later than `nimg`, which the resumed run will write again.

        Raises:
            NoiseganError: when the file cannot be read or written; it then stays as it was.
        """
        path = self.path / "stats.jsonl"
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise NoiseganError(f"cannot read {path}: {error.strerror or error}; mend or delete it") from error
        kept = []
        for line in lines:
            try:
                known = json.loads(line)
            except json.JSONDecodeError:
                continue
            if known["nimg"] <= nimg:
                kept.append(line + "\n")
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def write_json(self, name: str, data: Any) -> None:
        write_json(self.path / name, data)

    def close(self) -> None:
        """Let another process in. Closing twice does nothing."""
        if self._lock is not None:
            with suppress(OSError):
                os.close(self._lock)
            self._lock = None


def lock_folder(path: Path, busy: str) -> int | None:
    """An open file that is locked while it is open; None where the file system has no locks.

    Raises:
        BusyError: with the sentence `busy`, when another process holds it.
    """
    if fcntl is None:
        return None  # type: ignore[unreachable]
    handle = os.open(path / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise BusyError(busy) from None
    except OSError:  # some network file systems: without a lock two writers are not noticed
        os.close(handle)
        return None
    return handle


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock of a folder, as `lock_folder`."""
    handle = lock_folder(path, busy)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def check_desc(desc: str) -> None:
    """Raises:
    NoiseganError: when `desc` cannot be the end of a folder's name.
    """
    separators = {"/", os.sep, os.altsep or os.sep}
    if not desc:
        raise NoiseganError("a run's description (--desc) must not be empty; write a word or two")
    if len(desc) > DESC_LENGTH:
        raise NoiseganError(
            f"a run's description (--desc) has at most {DESC_LENGTH} characters, {desc[:20]!r}... has {len(desc)}; "
            "give a shorter one"
        )
    bad = sorted({c for c in desc if c in separators or not c.isprintable()})
    if bad:
        raise NoiseganError(
            f"a run's description (--desc) becomes part of a folder's name and must not hold {bad[0]!r}, got {desc!r}; "
            f"write for example {''.join('-' if c in bad else c for c in desc)!r}"
        )


def read_options(path: Path) -> dict[str, Any]:
    """The training_options.json of a run folder.

    Raises:
        NoiseganError: when it is missing or not readable.
    """
    try:
        options: dict[str, Any] = json.loads((path / OPTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: no JSON, or no text at all
        raise NoiseganError(f"cannot read {path / OPTIONS}: {error}") from None
    return options


def _number(folder: Path, desc: str) -> Path:
    """Rename a folder to `<number>-<desc>`, the number one above the highest beside it; returns the new path."""
    while True:
        numbers = [int(m[1]) for p in folder.parent.iterdir() if (m := re.match(r"(\d{5,})(?:-|$)", p.name))]
        path = folder.with_name(f"{max(numbers, default=-1) + 1:05d}-{desc}")
        try:
            return folder.rename(path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise NoiseganError(f"a run's folder cannot be named {path.name!r}: too long; shorten --desc") from None
            if not path.exists():
                raise
            # another process took the number
