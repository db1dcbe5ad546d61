"""`noisegan dataset`: info, check and pack, their output and their exit status."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from noisegan.cli.dataset import command
from noisegan.core.data import open_dataset
from noisegan.errors import NoiseganError

N = 9


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "faces"
    path.mkdir()
    values = (np.arange(N * 16 * 16 * 3) * 37 % 251).astype(np.uint8).reshape(N, 16, 16, 3)
    for i, image in enumerate(values):
        Image.fromarray(image).save(path / f"{i}.png")
    (path / "dataset.json").write_text(json.dumps({"labels": [[f"{i}.png", i % 2] for i in range(N)]}))
    return path


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def refused(*arguments: Any) -> str:
    result = invoke(*arguments)
    assert isinstance(result.exception, NoiseganError), result.output
    return str(result.exception)


def test_info(folder: Path) -> None:
    result = invoke("info", folder)
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.output.strip().splitlines())
    assert {key: value.strip() for key, value in lines.items()} == {
        "name": "faces",
        "path": str(folder),
        "fingerprint": open_dataset(folder).fingerprint,
        "images": "9",
        "size": "16x16",
        "channels": "3 (RGB)",
        "classes": "2 (0: 5, 1: 4)",
    }


def test_info_as_json_is_what_a_run_records(folder: Path) -> None:
    for cond in (False, True):
        found = json.loads(invoke("info", folder, "--json", f"--cond={int(cond)}").stdout)
        assert found["class_counts"] == {"0": 5, "1": 4}
        assert found["sizes"] == {"16x16": N}
        expected = open_dataset(folder, cond=cond).describe()
        assert {key: found[key] for key in expected} == expected


def test_info_needs_no_choice_of_size(folder: Path) -> None:
    Image.new("L", (30, 20)).save(folder / "odd.png")
    found = json.loads(invoke("info", folder, "--json").stdout)
    assert (found["source_size"], found["channels"], found["resolution"]) == (None, None, None)
    assert found["sizes"] == {"16x16": N, "30x20": 1}
    assert found["class_counts"] is None
    assert "has no label for odd.png" in found["labels_fault"]
    output = " ".join(invoke("info", folder).output.split())
    assert "size 9 of 16x16, 1 of 30x20" in output
    assert "channels they differ" in output
    assert "to train choose --resolution with --resize and, if images are not square, --crop center" in output
    assert "has no label for odd.png" in output
    assert "has no label for odd.png" in refused("info", folder, "--cond")
    assert "did you mean 'digits'?" in refused("info", "digit")


def test_check(folder: Path) -> None:
    result = invoke("check", folder)
    assert (result.exit_code, result.output) == (0, f"all 9 images of {folder} are fine\n")
    labels = {"labels": [[f"{i}.png", 0] for i in range(N)]}
    Image.new("L", (16, 16)).save(folder / "grey.png")
    Image.new("RGB", (30, 20)).save(folder / "wide.png")
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(folder / "deep.png")
    whole = (folder / "0.png").read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dataset.json").write_text(json.dumps(labels))
    result = invoke("check", folder, "--workers", 0)
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert len(lines) == 6
    assert lines[0] == f"deep.png in {folder} is a 16-bit image; only 8 bits per channel are read: convert it to 8 bits"
    assert lines[1] == f"grey.png in {folder} has 1 channels, most have 3"
    assert lines[2].startswith(f"torn.png in {folder} cannot be read: ")
    assert lines[3] == f"wide.png in {folder} is 30x20, most are 16x16 and is not square"
    assert lines[4].startswith(f"dataset.json in {folder} has no label for deep.png")
    assert lines[5] == f"5 faults in 13 images of {folder}"


def test_check_when_no_image_is_square(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 9), np.uint8))
    result = invoke("check", tmp_path / "a.npy")
    assert result.exit_code == 2
    assert f"image 1 of {tmp_path}/a.npy is not square (9x8)" in result.output


def test_pack_keeps_fingerprint_and_labels(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "faces.zip"
    result = invoke("pack", folder, target)
    assert result.exit_code == 0, result.output
    packed, original = open_dataset(target, cond=True), open_dataset(folder, cond=True)
    assert packed.fingerprint == original.fingerprint
    assert open_dataset(target).fingerprint == open_dataset(folder).fingerprint
    assert torch.equal(packed.images(range(N)), original.images(range(N)))
    assert torch.equal(packed.labels(range(N)), original.labels(range(N)))
    assert result.output == (
        f"wrote {target}: 9 images, 16x16, 3 (RGB), 2 classes\nfingerprint {original.fingerprint}\n"
    )
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == [f"00000/img{i:08d}.png" for i in range(N)] + ["dataset.json"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        manifest = json.loads(archive.read("dataset.json"))
    assert manifest["labels"][:2] == [["00000/img00000000.png", 0], ["00000/img00000001.png", 1]]
    again = tmp_path / "again.zip"
    assert invoke("pack", folder, again, "--workers=1").exit_code == 0
    assert again.read_bytes() == target.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.zip", "faces", "faces.zip"]


def test_pack_with_choices(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (9, 8, 7)).save(folder / "wide.png")
    target = tmp_path / "small.zip"
    text = refused("pack", folder, target)
    assert "has no label for wide.png" in text
    assert "--cond=false packs the images without labels" in text
    assert "images differ in size" in refused("pack", folder, target, "--cond=0")
    options = ["--resolution=8", "--resize=lanczos", "--crop=center", "--cond=false"]
    assert invoke("pack", folder, target, *options).exit_code == 0
    expected = open_dataset(folder, resolution=8, resize="lanczos", crop="center")
    assert torch.equal(open_dataset(target).images(range(N + 1)), expected.images(range(N + 1)))
    with zipfile.ZipFile(target) as archive:
        manifest = json.loads(archive.read("dataset.json"))
    assert manifest["labels"] is None
    assert manifest["packed_from"] == {
        "name": "faces",
        "fingerprint": expected.fingerprint,
        "source_size": None,
        "crop": "center",
        "resize": "lanczos",
    }


@pytest.mark.parametrize("channels", [1, 4])
def test_pack_grey_and_rgba(tmp_path: Path, channels: int) -> None:
    images = (np.arange(3 * 8 * 8 * channels) * 91 % 256).astype(np.uint8).reshape(3, 8, 8, channels)
    np.save(tmp_path / "a.npy", images)
    assert invoke("pack", tmp_path / "a.npy", tmp_path / "a.zip").exit_code == 0
    assert open_dataset(tmp_path / "a.zip").fingerprint == open_dataset(tmp_path / "a.npy").fingerprint
    assert "leave --cond out" in refused("pack", tmp_path / "a.npy", tmp_path / "b.zip", "--cond")
    assert not (tmp_path / "b.zip").exists()


def test_pack_overwrites_only_by_force(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    target.write_text("mine")
    assert refused("pack", folder, target) == f"{target} exists; give --force to replace it, or choose another name"
    assert target.read_text() == "mine"
    assert invoke("pack", folder, target, "--force").exit_code == 0
    assert len(open_dataset(target)) == N
    assert invoke("pack", target, target, "--force").exit_code == 0  # onto itself
    assert open_dataset(target).fingerprint == open_dataset(folder).fingerprint
    assert "name it a.zip" in refused("pack", folder, tmp_path / "a.tar")
    assert "does not exist; make it first" in refused("pack", folder, tmp_path / "no" / "a.zip")


def test_exit_status_of_the_program(folder: Path) -> None:
    def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "noisegan", "dataset", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    (folder / "5.png").write_bytes(b"hello")
    checked = run("check", folder)
    assert checked.returncode == 2
    assert checked.stdout.startswith(f"5.png in {folder} cannot be read: it is empty, cut short or no image")
    missing = run("info", folder / "none")
    assert missing.returncode == 2
    assert missing.stdout == ""
    assert missing.stderr.startswith("error: there is no data set")
    assert len(missing.stderr.splitlines()) == 1
