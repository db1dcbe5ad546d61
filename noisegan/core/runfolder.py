"""The folder of a run: its number and name, its log, its statistics; one writer at a time."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from noisegan.core.checkpoint import find_snapshot, snapshots
from noisegan.core.files import atomic_path, write_json
from noisegan.errors import NoiseganError

try:
    import fcntl
except ImportError:  # Windows: without a lock two writers are not noticed
    fcntl = None  # type: ignore[assignment]


OPTIONS = "training_options.json"


class RunFolder:
    """An open run folder; `create` and `open` make one. Close it to let another process in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = self._take_lock()
        for stale in path.glob(".*.tmp"):  # left by a killed process, which cannot be writing any more
            stale.unlink(missing_ok=True)
        self._log: IO[str] = (path / "log.txt").open("a", encoding="utf-8")

    @classmethod
    def create(cls, outdir: str | Path, desc: str, options: Mapping[str, Any]) -> RunFolder:
        """Make `<outdir>/<number>-<desc>`, the number one above the highest there, with its options inside.

        The folder gets its name when the options are in it, so a kill at any moment leaves a run that can be resumed
        or none.

        Raises:
            NoiseganError: when it cannot be made.
        """
        outdir = Path(outdir)
        try:
            outdir.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".new-run-", dir=outdir))
            temporary.chmod(0o777 & ~_umask())
            write_json(temporary / OPTIONS, {"outdir": str(outdir)} | dict(options))
            while True:
                numbers = [int(m[1]) for p in outdir.iterdir() if (m := re.match(r"(\d{5,})(?:-|$)", p.name))]
                path = outdir / f"{max(numbers, default=-1) + 1:05d}-{desc}"
                try:
                    temporary.rename(path)
                except OSError:
                    if path.exists():
                        continue  # another process took the number
                    raise
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

    def last_snapshot(self) -> Path | None:
        """The last snapshot, None when the run was stopped before its first."""
        return find_snapshot(self.path) if snapshots(self.path) else None

    def log(self, line: str) -> None:
        """Add a line to log.txt."""
        self._log.write(line + "\n")
        self._log.flush()

    def append_stats(self, line: Mapping[str, Any]) -> None:
        """Add a line to stats.jsonl; a kill in the middle leaves at most that line torn."""
        with (self.path / "stats.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind_stats(self, nimg: int) -> None:
        """Drop torn lines and lines later than `nimg`, which the resumed run will write again."""
        path = self.path / "stats.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
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
        self._log.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> int | None:
        if fcntl is None:
            return None  # type: ignore[unreachable]
        handle = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise NoiseganError(f"another process is training in {self.path}: wait for it or stop it") from None
        return handle


def read_options(path: Path) -> dict[str, Any]:
    """The training_options.json of a run folder.

    Raises:
        NoiseganError: when it is missing or not readable.
    """
    try:
        options: dict[str, Any] = json.loads((path / OPTIONS).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise NoiseganError(f"cannot read {path / OPTIONS}: {error}") from None
    return options


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
