"""Sizes of data sets: resizing and cropping are Pillow's, and what does not fit is told with its cure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_data
import torch
from PIL import Image
from small_data import pixels, refused, save

from noisegan.core.data import open_dataset

cache = small_data.cache


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("resize", ["lanczos", "bicubic", "box", "nearest"])
def test_resize_and_crop_are_pillows(tmp_path: Path, channels: int, resize: str) -> None:
    images = pixels(channels, n=2, height=20, width=27)
    np.save(tmp_path / "a.npy", images)
    data = open_dataset(tmp_path / "a.npy", resolution=8, resize=resize, crop="center")
    for i in range(2):
        image = Image.fromarray(images[i, ..., 0] if channels == 1 else images[i]).crop((3, 0, 23, 20))
        expected = np.asarray(image.resize((8, 8), Image.Resampling[resize.upper()])).reshape(8, 8, channels)
        assert torch.equal(data.images([i])[0].permute(1, 2, 0), torch.tensor(expected))


def test_crop_alone_and_pad(tmp_path: Path) -> None:
    images = pixels(3, n=2, height=21, width=16)
    np.save(tmp_path / "a.npy", images)
    inner = torch.from_numpy(images[:, 2:18].transpose(0, 3, 1, 2).copy())
    assert torch.equal(open_dataset(tmp_path / "a.npy", crop="center").images([0, 1]), inner)
    padded = open_dataset(tmp_path / "a.npy", crop="center", resolution=32, resize="pad").images([0, 1])
    assert torch.equal(padded[:, :, 8:24, 8:24], inner)
    padded[:, :, 8:24, 8:24] = 0
    assert not padded.any()
    text = refused(tmp_path / "a.npy", crop="center", resolution=8, resize="pad")
    assert text.startswith("--resize pad only enlarges: images of a are 16x16, wanted is 8x8; choose lanczos, bicubic")


def test_mixed_sizes(tmp_path: Path) -> None:
    save(tmp_path / "a.png", pixels(3)[0])
    save(tmp_path / "b.png", pixels(3, height=20, width=32)[0])
    text = refused(tmp_path)
    assert f"a.png in {tmp_path} is 16x16, b.png in {tmp_path} is 32x20" in text
    assert "--crop center --resize lanczos would make them equal" in text
    assert text == refused(tmp_path, resolution=16, resize="lanczos") == refused(tmp_path, crop="center", resize="pad")
    assert "say which with --resolution" in refused(tmp_path, crop="center", resize="box")
    data = open_dataset(tmp_path, resolution=8, resize="lanczos", crop="center")
    assert data.images([0, 1]).shape == (2, 3, 8, 8)
    assert data.describe()["source_size"] is None


def test_size_mistakes(tmp_path: Path) -> None:
    odd, wide, even = (tmp_path / f"{name}.npy" for name in ("odd", "wide", "even"))
    np.save(odd, pixels(1, height=28, width=28))
    np.save(wide, pixels(3, height=16, width=20))
    np.save(even, pixels(1))
    sizes = "8, 16, 32, 64, 128, 256, 512, 1024"
    assert refused(odd) == (
        f"images of odd are 28x28; a generator needs one of {sizes}: choose with --resolution and --resize "
        "(lanczos, bicubic, box, nearest, pad)"
    )
    assert "--resolution and --resize" in refused(odd, resize="lanczos")
    assert refused(wide, resolution=16) == (
        "images of wide are 20x16, not square; --crop center takes the largest centred square"
    )
    assert refused(even, resolution=32) == (
        "images of even are 16x16, wanted is 32x32; choose how with --resize (lanczos, bicubic, box, nearest, pad), "
        "or give the --resolution they have"
    )
    assert refused(even, resolution=20) == f"--resolution 20 is not one of {sizes}"
    assert "--resize 'area' is not one of lanczos" in refused(even, resize="area")
    assert "--crop 'top' is not one of center" in refused(even, crop="top")
    assert "workers must be 0 or more, got -1" in refused(even, workers=-1)
