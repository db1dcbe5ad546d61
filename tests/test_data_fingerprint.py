"""Fingerprints of data sets: what they depend on, progress while they are made, and when they are remembered."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import small_data
from numpy.typing import NDArray
from small_data import CLASSES, N, make_folder, pixels

from noisegan.core.data import fingerprint, open_dataset

cache = small_data.cache
lazy = small_data.lazy


def test_fingerprint_knows_order_pixels_and_labels(tmp_path: Path) -> None:
    images, path = pixels(1), tmp_path / "a.npz"

    def print_of(array: NDArray[np.uint8], labels: list[int]) -> str:
        np.savez(path, images=array, labels=labels)
        return open_dataset(path, cond=True).fingerprint

    touched = images.copy()
    touched[5, 3, 3] ^= 1
    base = print_of(images, CLASSES)
    assert (
        len({base, print_of(images[::-1], CLASSES), print_of(touched, CLASSES), print_of(images, CLASSES[::-1])}) == 4
    )
    np.savez(path, images=images, labels=CLASSES)
    resized = open_dataset(path, cond=True, resolution=32, resize="box", mirror=True)
    assert resized.fingerprint == base  # of the raw images


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(1, n=150))
    for workers in (0, 2):
        seen: list[tuple[int, int]] = []
        open_dataset(tmp_path / "a.npy", workers=workers, progress=lambda *at, seen=seen: seen.append(at))
        assert seen == [(64, 150), (128, 150), (150, 150)]


def test_fingerprint_of_a_large_set_is_remembered(
    tmp_path: Path, cache: Path, lazy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "f", pixels(3), CLASSES)
    seen: list[int] = []
    digest = fingerprint.image_digest
    monkeypatch.setattr(fingerprint, "image_digest", lambda image: seen.append(1) or digest(image))
    first = open_dataset(folder).fingerprint
    assert len(seen) == N
    assert open_dataset(folder).fingerprint == first
    assert len(seen) == N
    assert open_dataset(folder, cond=True).fingerprint != first
    assert len(seen) == 2 * N
    os.utime(folder / "a/001.bmp", ns=(1, 1))
    assert open_dataset(folder).fingerprint == first
    assert len(seen) == 3 * N
    (cache / "fingerprints.json").write_text("{nonsense")
    assert open_dataset(folder).fingerprint == first
    assert len(json.loads((cache / "fingerprints.json").read_text())) == 1
    (cache / "fingerprints.json").unlink()
    (cache / "fingerprints.json").mkdir()  # it cannot be written: fine
    assert open_dataset(folder).fingerprint == first
