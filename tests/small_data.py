"""Small data sets in every format, for the tests of data sets, and a cache of its own for every test.

A file of tests takes the fixtures over by assignment: `cache = small_data.cache`.
"""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from noisegan.core.data import builtin, dataset, open_dataset
from noisegan.errors import NoiseganError

N, R = 12, 16
CLASSES = [i % 3 for i in range(N)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for every test, and no Fashion-MNIST in the system."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NOISEGAN_CACHE", str(folder))
    monkeypatch.setattr(builtin, "FASHION_SYSTEM", folder / "system")
    return folder


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", 0)


def pixels(channels: int = 3, n: int = N, height: int = R, width: int = R) -> NDArray[np.uint8]:
    """[n, H, W, C] made by a formula; alpha included, all different."""
    values = np.arange(n * height * width * channels, dtype=np.int64) * 2654435761 >> 7
    return (values % 256).astype(np.uint8).reshape(n, height, width, channels)


def save(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)


def names(n: int = N) -> list[str]:
    """Sorted: two sub-folders and several formats without loss."""
    return [f"{'a' if i < n // 2 else 'b/c'}/{i:03d}.{('png', 'bmp', 'tiff')[i % 3]}" for i in range(n)]


def make_folder(path: Path, images: NDArray[np.uint8], labels: list[int] | None = None) -> Path:
    files = [name if images.shape[-1] != 4 else str(Path(name).with_suffix(".png")) for name in names(len(images))]
    for name, image in zip(files, images, strict=True):
        save(path / name, image)
    if labels is not None:
        pairs = [list(pair) for pair in zip(files, labels, strict=True)]
        (path / "dataset.json").write_text(json.dumps({"labels": pairs[::-1]}))
    return path


def make_zip(path: Path, folder: Path, *, top: str = "", compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                archive.write(file, top + file.relative_to(folder).as_posix())
    return path


def idx(array: NDArray[np.uint8]) -> bytes:
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def make_idx(folder: Path, images: NDArray[np.uint8], labels: list[int] | None, suffix: str = ".gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pack: Any = gzip.compress if suffix else bytes
    path = folder / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(pack(idx(images[..., 0])))
    if labels is not None:
        (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.array(labels, np.uint8))))
    return path


def refused(source: str | Path, **choices: Any) -> str:
    with pytest.raises(NoiseganError) as caught:
        open_dataset(source, **choices)
    text = str(caught.value)
    assert "\n" not in text
    return text
