"""The folder of a run: its name, its log and statistics, its lock, and what is left when it cannot be made."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisegan import files
from noisegan.core import runfolder
from noisegan.core.runfolder import OPTIONS, RunFolder, read_options
from noisegan.errors import NoiseganError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SENTENCE = "No space left on device; free some space or choose another place"


def fail(*_: Any, **__: Any) -> Any:
    raise FULL


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path, "one", {"seed": 1})
    folder.close()
    return folder


def test_runs_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "00007").mkdir()
    (tmp_path / "123-old").mkdir()
    for number in (8, 9):
        folder = RunFolder.create(tmp_path / "", "a b", {"seed": 1})
        folder.close()
        assert folder.path == tmp_path / f"0000{number}-a b"
        assert read_options(folder.path) == {"outdir": str(tmp_path), "seed": 1}
    assert folder.path.stat().st_mode & 0o777 == (tmp_path / "00007").stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("desc", "sentence"),
    [
        ("a/b", "must not hold '/', got 'a/b'; write for example 'a-b'"),
        ("../a", "must not hold '/', got '../a'; write for example '..-a'"),
        ("a\0b", "must not hold '\\x00', got 'a\\x00b'; write for example 'a-b'"),
        ("a\nb", "must not hold '\\n'"),
        ("", "(--desc) must not be empty"),
        ("n" * 101, "has at most 100 characters, 'nnnnnnnnnnnnnnnnnnnn'... has 101; give a shorter one"),
        ("ä" * 100 + "/", "has at most 100 characters"),
    ],
)
def test_descriptions_that_are_no_name(tmp_path: Path, desc: str, sentence: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        RunFolder.create(tmp_path / "out", desc, {})
    assert sentence in str(caught.value)
    assert "--outdir" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_description_of_many_bytes(tmp_path: Path) -> None:
    with pytest.raises(NoiseganError, match="too long; shorten --desc"):
        RunFolder.create(tmp_path, "語" * 100, {})
    assert not list(tmp_path.iterdir())
    RunFolder.create(tmp_path, "n" * 100, {}).close()


@pytest.mark.parametrize(
    ("place", "name"), [(files.os, "fsync"), (Path, "rename"), (Path, "write_text"), (runfolder, "_number")]
)
def test_nothing_is_left_when_it_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: object, name: str
) -> None:
    monkeypatch.setattr(place, name, fail)
    with pytest.raises(NoiseganError, match=r"^cannot write .*No space left on device; (free|choose)"):
        RunFolder.create(tmp_path, "a", {})
    assert not list(tmp_path.iterdir())


def test_another_process_may_take_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename: Callable[[Path, Path], Path] = Path.rename
    seen = []

    def late(self: Path, target: Path) -> Path:
        seen.append(target.name)
        if len(seen) == 1:
            (target / "taken").mkdir(parents=True)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    RunFolder.create(tmp_path, "a", {}).close()
    assert seen == ["00000-a", "00001-a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == seen


@pytest.mark.parametrize("name", ["stats.jsonl", "log.txt"])
def test_full_disks_are_sentences(run: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def write() -> None:
        run.log("line") if name == "log.txt" else run.append_stats({"nimg": 1})

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(NoiseganError) as caught:
        write()
    assert str(caught.value) == f"cannot write {run.path / name}: {SENTENCE}"


def test_statistics_that_cannot_be_flushed_or_rewound(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.path / "stats.jsonl"
    run.rewind_stats(3)
    assert not path.exists()
    for nimg in (1, 2, 3):
        run.append_stats({"nimg": nimg})
    with path.open("ab") as file:
        file.write(b'{"nimg": 4, "lo\xff\0')
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        for write in (lambda: run.append_stats({"nimg": 5}), lambda: run.rewind_stats(2)):
            with pytest.raises(NoiseganError) as caught:
                write()
            assert str(caught.value) == f"cannot write {path}: {SENTENCE}"
    assert path.read_bytes().startswith(before)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", fail)
        with pytest.raises(NoiseganError, match=r"cannot read .*stats.jsonl: No space"):
            run.rewind_stats(2)
    run.rewind_stats(2)
    assert [json.loads(line)["nimg"] for line in path.read_text().splitlines()] == [1, 2]


def test_the_log_takes_lines_at_any_time(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.open(run.path)
    folder.log("open ä")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        with pytest.raises(NoiseganError):
            folder.log("lost")
    folder.close()
    folder.close()
    folder.log("closed \udcff")
    assert (run.path / "log.txt").read_text(encoding="utf-8") == "open ä\nclosed \\udcff\n"


def test_only_a_held_lock_means_another_process(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    held = RunFolder.open(run.path)
    with pytest.raises(NoiseganError, match="another process is training in"):
        RunFolder.open(run.path)
    held.close()

    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    opened = RunFolder.open(run.path)
    opened.log("goes on")
    opened.close()


def test_a_folder_that_fails_to_open_is_not_locked(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        with pytest.raises(NoiseganError, match=r"cannot write to the run folder .*No space") as caught:
            RunFolder.open(run.path)
    assert caught.tb is not None  # the frame that failed, and any lock it holds, are still there
    RunFolder.open(run.path).close()


def test_options_that_cannot_be_read(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(NoiseganError, match="is not a run folder"):
        RunFolder.open(tmp_path)
    for content in (b"{", b"\xff\xfe"):
        (run.path / OPTIONS).write_bytes(content)
        with pytest.raises(NoiseganError, match=f"cannot read .*{OPTIONS}"):
            read_options(run.path)
