"""The cache of native operations: entries whole or not at all, whatever happens to builders, locks and disks."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import building
import pytest
from building import answer, builder, hidden, until

from noisegan.errors import NoiseganError
from noisegan.ext import build, cache, toolchain
from noisegan.ext.cache import BuildError, cached

private = building.private
pytestmark = building.pytestmark
slow = building.slow
sources = building.sources


def test_of_two_processes_one_builds_and_both_load(sources: Path, slow: Path) -> None:
    with builder(sources) as first:
        until((slow / "started").exists, first)
        with builder(sources) as second:
            assert second.stderr is not None
            assert f"waiting for process {first.pid} on " in second.stderr.readline()
            (slow / "go").touch()
            paths = [process.communicate()[0].strip() for process in (first, second)]
    assert paths[0] == paths[1]
    assert answer(Path(paths[0])) == 42
    assert (slow / "started").read_text().count("x") == 2  # compile and link
    assert hidden() == []


def test_a_killed_builder_leaves_nothing_that_matters(sources: Path, slow: Path) -> None:
    with builder(sources) as process:
        until((slow / "started").exists, process)
        process.kill()
    assert len(hidden()) == 2
    (slow / "go").touch()
    assert answer(build.cpu_library()) == 42
    assert hidden() == []


def test_a_sweep_spares_the_living(tmp_path: Path) -> None:
    root = cache.folder()
    for name in ("alive", "dead"):
        (root / f".{name}.1234").mkdir(parents=True)
    with (root / ".alive.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cached({}, "other", lambda folder: (folder / "other").touch())
        assert sorted(hidden()) == [".alive.1234", ".alive.lock"]
        assert cache.clean()[0] == 1
        assert sorted(hidden()) == [".alive.1234", ".alive.lock"]
    assert cache.clean() == (0, 0)
    assert list(root.iterdir()) == []


def test_a_sweep_spares_a_lock_that_changes_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder lets it go, and another builder takes it, between the sweep's opening it and locking it."""
    root = cache.folder()
    (root / ".x.1234").mkdir(parents=True)
    lock, flock = root / ".x.lock", cache._flock
    lock.touch()
    living = ExitStack()

    def in_between(handle: int) -> bool | None:
        monkeypatch.setattr(cache, "_flock", flock)
        lock.unlink()
        living.enter_context(cache._locked(lock))
        return flock(handle)

    monkeypatch.setattr(cache, "_flock", in_between)
    with living:
        cache._sweep(root)
        assert cache._flock is flock
        assert sorted(hidden()) == [".x.1234", ".x.lock"]
    cache._sweep(root)
    assert hidden() == []


def test_a_builder_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LOCK_LIMIT_S", 0.1)
    cache.folder().mkdir(parents=True)
    path = cache.folder() / f".{cache._name({}, 'x')}.lock"
    with path.open("w") as lock:
        lock.write("process 77 on there")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BuildError) as error:
            cached({}, "x", lambda folder: None)
    assert str(error.value) == (
        "process 77 on there has been building noisegan's operations for more than 0.1 s and holds the lock "
        f"{path}; stop it and try again"
    )


def test_without_locks_it_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "fcntl", None)
    assert answer(build.cpu_library()) == 42
    assert answer(build.cpu_library()) == 42
    assert hidden() == []


def test_an_entry_that_lost_its_file_is_made_again() -> None:
    path = build.cpu_library()
    path.unlink()
    assert cache.entries() == []
    assert build.cpu_library() == path
    assert answer(path) == 42
    (path.parent / "key.json").write_text("damaged")
    assert cache.entries() == []


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-100] + bytes(100)])
def test_an_entry_that_was_damaged_is_made_again(damage: Callable[[bytes], bytes]) -> None:
    path = build.cpu_library()
    content = path.read_bytes()
    path.unlink()  # where it is loaded it stays as it was
    path.write_bytes(damage(content))
    [entry] = cache.entries()
    assert not entry.intact
    assert cache.find(path.name, entry.key_parts) is None
    assert build.cpu_library() == path
    assert path.read_bytes() == content
    assert cache.find(path.name, entry.key_parts) == path


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
@pytest.mark.usefixtures("private")
def test_a_cache_that_cannot_be_written_means_a_build_for_this_process(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = cache.temporary_folder

    def bad(parent: Path, prefix: str) -> object:
        if parent == cache.folder():
            raise OSError(number, os.strerror(number))
        return good(parent, prefix)

    monkeypatch.setattr(cache, "temporary_folder", bad)
    path = build.cpu_library()
    assert answer(path) == 42
    assert path.is_relative_to(cache._private_folder())
    assert build.cpu_library() == path
    assert len(caplog.messages) == 2  # the folder and the build, once each
    assert f"cannot write {cache.folder()}: {os.strerror(number)}; " in caplog.messages[0]
    assert "(NOISEGAN_CACHE)" in caplog.messages[0]


@pytest.mark.parametrize("reason", ["No space left on device", "Disk quota exceeded"])
@pytest.mark.usefixtures("private")
def test_a_disk_that_fills_while_compiling_is_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    real = next(toolchain.compilers()).command[0]
    script = tmp_path / "full"
    script.write_text(
        f'#!/bin/sh\ncase "$PWD" in "{tmp_path}"*) echo "fatal error: x.s: {reason}" >&2; exit 1;; esac\n'.replace(
            "$cache", "\\$cache"
        )
        + f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert answer(build.cpu_library()) == 42
    monkeypatch.setattr(cache, "_private_folder", lambda: tmp_path / "private")
    (tmp_path / "private").mkdir()
    with pytest.raises(NoiseganError, match=f"cannot write .*/private: {reason}; free some space"):
        build.cpu_library()


def test_errors_of_the_work_itself_are_not_taken_for_a_full_disk() -> None:
    def make(folder: Path) -> None:
        raise OSError("libnvrtc.so: cannot open shared object file")

    with pytest.raises(OSError, match="libnvrtc"):
        cached({}, "x", make)
    assert hidden() == []
