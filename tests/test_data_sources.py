"""Sources of data sets: folders, zips, arrays and IDX files of every mode give the same pixels and labels."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import small_data
import torch
from PIL import Image
from small_data import CLASSES, N, R, idx, make_folder, make_idx, make_zip, pixels, refused, save

from noisegan.core.data import dataset, open_dataset

cache = small_data.cache


def every_source(tmp_path: Path, channels: int) -> dict[str, Path]:
    images = pixels(channels)
    folder = make_folder(tmp_path / "folder", images, CLASSES)
    (folder / "readme.txt").write_text("no image")
    save(folder / ".hidden.png", images[0])
    save(folder / ".thumbnails" / "x.png", images[0])
    found = {
        "folder": folder,
        "zip": make_zip(tmp_path / "stored.zip", folder),
        "deflated": make_zip(tmp_path / "deflated.zip", folder, top="folder/", compression=zipfile.ZIP_DEFLATED),
    }
    variants = {"nhwc": images, "nchw": images.transpose(0, 3, 1, 2)}
    if channels == 1:
        variants["nhw"] = images[..., 0]
        found["idx.gz"] = make_idx(tmp_path / "packed", images, CLASSES)
        found["idx"] = make_idx(tmp_path / "plain", images, CLASSES, suffix="")
    for name, array in variants.items():
        np.savez(tmp_path / f"{name}.npz", images=array, labels=np.array(CLASSES, np.int32))
        np.save(tmp_path / f"{name}.npy", array)
        found |= {f"{name}.npz": tmp_path / f"{name}.npz", f"{name}.npy": tmp_path / f"{name}.npy"}
    return found


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("memory", [None, 0])
def test_every_source_gives_the_same(
    tmp_path: Path, channels: int, memory: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if memory is not None:
        monkeypatch.setattr(dataset, "MEMORY_LIMIT", memory)
    expected = torch.from_numpy(pixels(channels).transpose(0, 3, 1, 2).copy())
    prints, conditional = set(), set()
    found = every_source(tmp_path, channels)
    assert len(found) >= 7
    for kind, path in found.items():
        data = open_dataset(path)
        assert (data.resolution, data.channels, data.c_dim, len(data)) == (R, channels, 0, N), kind
        assert torch.equal(data.images(range(N)), expected), kind
        assert data.labels([0, 1]).shape == (2, 0)
        prints.add(data.fingerprint)
        if path.suffix == ".npy":
            assert "nhw" in refused(path, cond=True) or "nchw" in refused(path, cond=True)
            continue
        data = open_dataset(str(path), cond=True, workers=0)
        assert data.c_dim == 3
        assert data.labels(torch.arange(N)).dtype == torch.float32
        assert data.labels(torch.arange(N)).argmax(1).tolist() == CLASSES
        assert torch.equal(data.labels(range(N)).sum(1), torch.ones(N))
        conditional.add(data.fingerprint)
    assert len(prints) == 1
    assert len(conditional) == 1
    assert prints != conditional
    assert next(iter(prints)).startswith("sha256:")


def test_describe_says_all_that_a_run_records(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "cats", pixels(3, height=24, width=20), CLASSES)
    data = open_dataset(folder, resolution=8, resize="box", crop="center", mirror=True, cond=True)
    assert json.loads(json.dumps(data.describe())) == {
        "name": "cats",
        "path": str(folder),
        "fingerprint": data.fingerprint,
        "n_images": N,
        "source_size": [24, 20],
        "channels": 3,
        "resolution": 8,
        "resize": "box",
        "crop": "center",
        "mirror": True,
        "cond": True,
        "num_classes": 3,
    }


@pytest.mark.parametrize("memory", [2**30, 0])
def test_mirror_and_indices(tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", memory)
    folder = make_folder(tmp_path / "f", pixels(3), CLASSES)
    plain, data = open_dataset(folder), open_dataset(folder, mirror=True, cond=True)
    assert len(data) == 2 * N
    order = [3, N + 3, 2 * N - 1, 3, 0]
    images = data.images(order)
    assert torch.equal(images[[0, 3, 4]], plain.images([3, 3, 0]))
    assert torch.equal(images[[1, 2]], plain.images([3, N - 1]).flip(3))
    assert data.labels(order).argmax(1).tolist() == [CLASSES[i % N] for i in order]
    images.zero_()
    assert torch.equal(data.images([3]), plain.images([3]))  # what is given is a copy
    assert data.images([]).shape == (0, 3, R, R)
    for bad in (-1, 2 * N):
        with pytest.raises(IndexError, match=f"image {bad} of f: there are {2 * N}"):
            data.images([0, bad])


MODES: dict[str, tuple[str, str]] = {  # mode as stored: (suffix, mode as read)
    "1": ("png", "L"),
    "L": ("jpg", "L"),
    "LA": ("png", "RGBA"),
    "P": ("gif", "RGB"),
    "RGB": ("webp", "RGB"),
    "CMYK": ("jpg", "RGB"),
    "RGBA": ("png", "RGBA"),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_are_read_as_pillow_converts_them(tmp_path: Path, mode: str) -> None:
    suffix, target = MODES[mode]
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(pixels(3)[0]).convert(mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert(target)).reshape(R, R, -1)
    assert torch.equal(open_dataset(tmp_path).images([0])[0].permute(1, 2, 0), torch.tensor(expected))


def test_palette_with_transparency_is_rgba(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(3)[0]).convert("P")
    image.save(tmp_path / "x.png", transparency=image.getpixel((0, 0)))
    data = open_dataset(tmp_path)
    assert data.channels == 4
    assert set(data.images([0])[0, 3].unique().tolist()) == {0, 255}


def test_upper_case_and_capitals_in_zip(tmp_path: Path) -> None:
    save(tmp_path / "f" / "X.PNG", pixels(1)[0])
    save(tmp_path / "f" / "__MACOSX" / "._X.png", pixels(1)[0])
    assert len(open_dataset(make_zip(tmp_path / "a.ZIP", tmp_path / "f"))) == 1


def test_kinds_are_known_by_content(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(idx(pixels(1)[..., 0]))
    np.save(tmp_path / "a.npy", pixels(1))
    (tmp_path / "a.npy").rename(tmp_path / "array")
    assert open_dataset(tmp_path / "images").fingerprint == open_dataset(tmp_path / "array").fingerprint
