"""Data sets by name: `digits` as scikit-learn has them, `fashion-mnist` found, or fetched whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_data
import torch
from small_data import CLASSES, N, make_folder, make_idx, pixels, refused

from noisegan.core.data import builtin, open_dataset

cache = small_data.cache


def test_digits() -> None:
    data = open_dataset("digits", resolution=32, cond=True)
    assert (len(data), data.channels, data.c_dim, data.name) == (1797, 1, 10, "digits")
    assert data.describe()["resize"] == "bicubic"
    assert data.describe()["path"] is None
    small = open_dataset("digits")
    assert small.describe()["resize"] is None
    assert small.images([0])[0, 0, 0].tolist() == [round(v * 255 / 16) for v in (0, 0, 5, 13, 9, 1, 0, 0)]
    assert open_dataset("digits", resolution=32, resize="nearest").describe()["resize"] == "nearest"


def test_digits_are_those_of_scikit_learn_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose import would cost every command two seconds; where its file is not found, it is imported."""
    from sklearn import datasets

    expected = datasets.load_digits()
    with monkeypatch.context() as without:
        without.setattr(datasets, "load_digits", None)
        data = open_dataset("digits", cond=True)
    assert np.array_equal(data.images(range(1797))[:, 0].numpy(), np.rint(expected.images * (255 / 16)))
    assert data.labels(range(1797)).argmax(dim=1).tolist() == expected.target.tolist()
    monkeypatch.setattr(builtin.importlib.util, "find_spec", lambda name: None)
    assert open_dataset("digits", cond=True).fingerprint == data.fingerprint


@pytest.mark.parametrize("layout", ["fashion-mnist", "fashion-mnist/FashionMNIST/raw", "system"])
def test_fashion_mnist_is_found(cache: Path, layout: str) -> None:
    images = pixels(1, height=28, width=28)
    path = make_idx(cache / layout, images, CLASSES, suffix="" if "raw" in layout else ".gz")
    data = open_dataset("fashion-mnist", resolution=32, cond=True)
    assert (data.name, data.c_dim, data.describe()["resize"], data.describe()["path"]) == (
        "fashion-mnist",
        3,
        "pad",
        str(path),
    )
    assert torch.equal(data.images(range(N))[:, 0, 2:30, 2:30], torch.tensor(images[..., 0]))
    assert "choose how with --resize" in refused("fashion-mnist", resolution=16)  # pad cannot make it smaller


def test_fashion_mnist_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def fetch(root: str, *, train: bool, download: bool) -> None:
        assert train
        assert download
        make_idx(Path(root) / "FashionMNIST" / "raw", pixels(1, height=28, width=28), CLASSES)

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fetch)
    assert len(open_dataset("fashion-mnist", resolution=32)) == N


def torchvision_that(monkeypatch: pytest.MonkeyPatch, fetch: Callable[[Path], None]) -> None:
    import torchvision.datasets

    def download(root: str, *, train: bool, download: bool) -> None:
        raw = Path(root) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        fetch(raw)

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)


def fetched_files(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "fashion-mnist").iterdir())


def test_an_interrupted_download_poisons_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = pixels(1, height=28, width=28)

    def killed(raw: Path) -> None:
        make_idx(raw, grey, CLASSES)
        raise KeyboardInterrupt

    def cut(raw: Path) -> None:
        path = make_idx(raw, grey, CLASSES)
        path.write_bytes(path.read_bytes()[:-30])

    def full(raw: Path) -> None:
        make_idx(raw, grey, CLASSES)
        raise OSError(28, "No space left on device")

    torchvision_that(monkeypatch, killed)
    with pytest.raises(KeyboardInterrupt):
        open_dataset("fashion-mnist")
    assert fetched_files(cache) == []
    for fetch, reason in [
        (cut, "train-images-idx3-ubyte.gz cannot be read"),
        (lambda raw: make_idx(raw, grey, None), "the download left no labels"),
        (lambda raw: make_idx(raw, grey, CLASSES[:-1]), "12 images but 11 labels"),
        (full, "No space left on device"),
    ]:
        torchvision_that(monkeypatch, fetch)
        assert reason in refused("fashion-mnist")
        assert fetched_files(cache) == []
    torchvision_that(monkeypatch, lambda raw: make_idx(raw, grey, CLASSES))
    assert open_dataset("fashion-mnist", resolution=32, cond=True).c_dim == 3
    assert fetched_files(cache) == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]


def test_two_processes_fetch_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = pixels(1, height=28, width=28)
    roots = []

    def fetch(raw: Path) -> None:
        roots.append(raw)
        if len(roots) == 1:  # the other process begins, and ends, while this one downloads
            assert len(open_dataset("fashion-mnist", resolution=32, cond=True)) == N
        make_idx(raw, grey, CLASSES)

    torchvision_that(monkeypatch, fetch)
    assert len(open_dataset("fashion-mnist", resolution=32, cond=True)) == N
    assert len(set(roots)) == 2
    assert len(open_dataset("fashion-mnist", resolution=32)) == N  # from the cache
    assert len(roots) == 2
    assert fetched_files(cache) == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("broken", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
@pytest.mark.parametrize("layout", ["fashion-mnist", "fashion-mnist/FashionMNIST/raw"])
def test_a_partial_file_in_the_cache_has_its_cure(
    cache: Path, monkeypatch: pytest.MonkeyPatch, layout: str, broken: str
) -> None:
    grey = pixels(1, height=28, width=28)
    path = make_idx(cache / layout, grey, CLASSES)
    file = path.with_name(broken)
    file.write_bytes(file.read_bytes()[:-10])
    torchvision_that(monkeypatch, lambda raw: make_idx(raw, grey, CLASSES))
    text = refused("fashion-mnist")
    assert text.startswith(f"{file} cannot be read: ")
    assert text.endswith(f"; fetch the file again: delete {path} and start again, then both files are fetched anew")
    path.unlink()
    assert open_dataset("fashion-mnist", resolution=32, cond=True).c_dim == 3


def test_fashion_mnist_cannot_be_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nno network.")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    text = refused("fashion-mnist", resolution=32)
    for part in ("no network", str(cache / "system"), str(cache / "fashion-mnist"), "package dataset-fashion-mnist"):
        assert part in text
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", lambda *_, **__: None)
    assert "(the download left no file)" in refused("fashion-mnist")


def test_a_folder_named_like_a_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "digits", pixels(3))
    assert len(open_dataset("digits")) == 1797
    assert len(open_dataset("./digits")) == len(open_dataset(Path("digits"))) == N
