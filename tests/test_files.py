"""Files and folders that are whole or not there, on disks that are full, and what a user then reads."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from noisegan import cli, files
from noisegan.core.data import open_dataset
from noisegan.core.data.pack import pack_dataset
from noisegan.core.images import save_image
from noisegan.core.runfolder import RunFolder
from noisegan.errors import NoiseganError
from noisegan.files import atomic_path, cache_folder, temporary_folder, write_json

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SENTENCE = "No space left on device; free some space or choose another place"


def fail(*_: Any, **__: Any) -> Any:
    raise FULL


def in_block(path: Path, error: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; skipped where nothing may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is refused here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> None:
    """Write until nothing more fits."""
    with (place / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_atomic_path(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"where": tmp_path, "name": "ä"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"where": str(tmp_path), "name": "ä"}

    def fails() -> None:
        with atomic_path(path) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.name.startswith(".a.json.")
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    for value, error in [(float("nan"), ValueError), (io.BytesIO(), TypeError)]:
        with pytest.raises(error):
            write_json(path, value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    with pytest.raises(NoiseganError, match="there is a folder of that name"):
        write_json(tmp_path, {})
    with pytest.raises(NoiseganError, match=r"cannot write .*: No such file"):
        write_json(tmp_path / "no" / "a.json", {})


def current_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_a_full_disk_is_a_sentence_wherever_it_strikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    before = path.read_bytes()
    with pytest.raises(NoiseganError) as caught:
        in_block(path, FULL)
    assert str(caught.value) == f"cannot write {path}: {SENTENCE}"
    assert caught.value.__cause__ is FULL
    for place, name in [(files.os, "fsync"), (Path, "write_text"), (Path, "replace"), (Path, "chmod")]:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            with pytest.raises(NoiseganError) as caught:
                write_json(path, {"new": 2})
        assert str(caught.value) == f"cannot write {path}: {SENTENCE}", name
        assert [file.name for file in tmp_path.iterdir()] == ["a.json"], name
        assert path.read_bytes() == before, name


@pytest.mark.parametrize(
    "error", [NoiseganError("mine"), ValueError("x"), KeyboardInterrupt(), BrokenPipeError(errno.EPIPE, "Broken pipe")]
)
def test_other_errors_pass_as_they_are(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        in_block(tmp_path / "a", error)
    assert caught.value is error
    assert not list(tmp_path.iterdir())


def test_a_cure_for_each_error(tmp_path: Path) -> None:
    for error, cure in [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded; free some space or choose another place"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied; choose a place that can be written"),
        (OSError("odd"), "odd; choose a place that can be written"),
    ]:
        with pytest.raises(NoiseganError, match=f": {cure}$"):
            in_block(tmp_path / "a", error)
    with pytest.raises(NoiseganError, match=r"File name too long; choose a shorter name$"):
        write_json(tmp_path / ("n" * 300), {})
    with pytest.raises(NoiseganError, match=r"No such file or directory; make its folder first$"):
        write_json(tmp_path / "no" / "a", {})


def test_a_temporary_folder_is_renamed_or_removed(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, ".new-") as folder:
        assert folder.name.startswith(".new-")
        (folder / "a").write_text("a")
        folder.rename(tmp_path / "kept")
    with suppress(KeyboardInterrupt), temporary_folder(tmp_path, ".new-") as folder:
        (folder / "a").write_text("a")
        raise KeyboardInterrupt
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["kept", "kept/a"]


def test_the_cache_is_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISEGAN_CACHE", "here/cache")
    assert cache_folder() == tmp_path / "here" / "cache"


def test_the_cache_of_an_unknown_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEGAN_CACHE", "~no-such-user/x")
    with pytest.raises(NoiseganError, match=r"cache ~no-such-user/x cannot be found: .*; set NOISEGAN_CACHE to"):
        cache_folder()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NOISEGAN_CACHE", "")
    assert cache_folder() == tmp_path / ".cache" / "noisegan"


# --- a disk that is full indeed


def test_nothing_half_written_on_a_full_disk(small_disk: Path) -> None:
    run = RunFolder.create(small_disk, "run", {})
    run.append_stats({"nimg": 1})
    write_json(run.path / "kept.json", {"old": 1})
    fill(small_disk)
    digits = open_dataset("digits")
    writers: dict[str, Callable[[], object]] = {
        "kept.json": lambda: write_json(run.path / "kept.json", {"new": "n" * 10_000}),
        "fakes.png": lambda: save_image(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), run.path / "fakes.png"),
        "digits.zip": lambda: pack_dataset(digits, run.path / "digits.zip"),
        "stats.jsonl": lambda: run.append_stats({"nimg": 2, "long": "n" * 10_000}),
        "log.txt": lambda: run.log("n" * 10_000),
    }
    for name, write in writers.items():
        with pytest.raises(NoiseganError) as caught:
            write()
        assert str(caught.value) == f"cannot write {run.path / name}: {SENTENCE}"
    with pytest.raises(NoiseganError, match=SENTENCE):
        RunFolder.create(small_disk, "another", {"long": "n" * 10_000})
    run.close()
    assert (run.path / "kept.json").read_text() == '{\n  "old": 1\n}\n'
    left = {path.name for path in (*small_disk.iterdir(), *run.path.iterdir())}
    assert left == {
        *("ballast", "00000-run", "training_options.json"),
        *(".lock", "log.txt", "stats.jsonl", "kept.json"),
    }
    (small_disk / "ballast").unlink()
    run = RunFolder.open(run.path)
    run.rewind_stats(5)
    run.append_stats({"nimg": 6})
    run.close()
    assert (run.path / "stats.jsonl").read_text() == '{"nimg": 1}\n{"nimg": 6}\n'


def test_a_new_plugin_on_a_full_disk(small_disk: Path) -> None:
    fill(small_disk)
    done = noisegan("new-plugin", "ripple", "--outdir", str(small_disk))
    assert done.returncode == 2
    assert done.stderr == f"error: cannot write {small_disk / 'noisegan-ripple'}: {SENTENCE}\n"
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


# --- what is left for the command line


def noisegan(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "noisegan", *arguments]
    return subprocess.run(command, text=True, stderr=subprocess.PIPE, check=False, **options)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FULL, "error: No space left on device\n"),
        (OSError(errno.EACCES, "Permission denied", "/a/b"), "error: /a/b: Permission denied\n"),
        (OSError("two\nlines"), "error: two lines\n"),
        (zipfile.BadZipFile("x"), None),
    ],
)
def test_errors_of_the_system_are_one_sentence(
    error: Exception, sentence: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(cli, "cli", failing)
    if sentence is None:
        with pytest.raises(zipfile.BadZipFile):  # a fault of noisegan keeps its traceback
            cli.main([])
        return
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert (stop.value.code, capsys.readouterr().err) == (2, sentence)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_that_takes_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        done = noisegan("strategies", "--json", stdout=full)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_a_reader_that_has_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = noisegan("strategies", "--json", stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
