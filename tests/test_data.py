"""Data sets: every source gives the same pixels, every choice is Pillow's, every mistake has its sentence.

Long, because all parts of the room share the makers of small data sets below.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from noisegan.core.data import Prefetcher, batch_indices, builtin, dataset, fingerprint, open_dataset
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.files import atomic_path, write_json

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


# Sources


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


# Choices of size


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


# Built-in names


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


# Mistakes


def test_missing_path(tmp_path: Path) -> None:
    (tmp_path / "Faces.zip").write_bytes(b"")
    assert refused("fashion-mnits") == "there is no data set 'fashion-mnits'; did you mean 'fashion-mnist'?"
    assert f"; did you mean '{tmp_path}/Faces.zip'?" in refused(tmp_path / "Facs.zip")
    assert "or a name: digits, fashion-mnist" in refused(tmp_path / "qqq")
    assert f"the folder {tmp_path}/nowhere does not exist either" in refused(tmp_path / "nowhere" / "x.zip")


def test_an_unknown_home_and_an_empty_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = (
        "there is no data set '~no-such-user/x': the system knows no home folder ~no-such-user; write the whole path"
    )
    assert refused("~no-such-user/x") == refused(Path("~no-such-user/x")) == sentence
    assert refused("").startswith("the data set's name is empty; give a folder or .zip of images")
    monkeypatch.setenv("NOISEGAN_CACHE", "~no-such-user")
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", 0)
    np.save(cache / "a.npy", pixels(1))
    assert len(open_dataset(cache / "a.npy")) == N  # only the memory of fingerprints is lost
    assert "set NOISEGAN_CACHE to a whole path" in refused("fashion-mnist")


def test_empty_places(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    assert refused(folder).startswith(f"the folder {folder} holds no images (png, jpg, webp")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"")
    assert "it holds train-images-idx3-ubyte.gz: give that file" in refused(folder)
    assert f"the zip file {tmp_path}/a.zip holds no images" in refused(make_zip(tmp_path / "a.zip", folder))


def test_files_of_the_wrong_kind(tmp_path: Path) -> None:
    for name, content, expected in [
        ("a.zip", b"hello", "a.zip is not a zip file, or is cut short"),
        ("a.txt", b"hello", "a.txt is a file of a kind that is not read (.txt); a data set is a folder or .zip"),
        ("noname", b"", "noname is a file of a kind that is not read (no suffix)"),
        ("a.png", b"hello", "a.png is a single image; a data set is a folder or .zip of images"),
        ("a.npy", b"hello", "a.npy is not a file of NumPy's .npy format"),
        ("a.npz", b"", "a.npz is not a file of NumPy's .npz format"),
        ("b.npz", b"PK\3\4hello", "b.npz cannot be read as NumPy's .npz file: File is not a zip file"),
        ("a.gz", b"hello", "a.gz is not the IDX file it should be: its magic number is 1751477356, expected 2051"),
        ("b.gz", b"\x1f\x8bhello", "b.gz cannot be read: "),
        ("c.idx", b"\0\0", "c.idx is cut short or damaged"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert expected in refused(tmp_path / name), name


def test_kinds_are_known_by_content(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(idx(pixels(1)[..., 0]))
    np.save(tmp_path / "a.npy", pixels(1))
    (tmp_path / "a.npy").rename(tmp_path / "array")
    assert open_dataset(tmp_path / "images").fingerprint == open_dataset(tmp_path / "array").fingerprint


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, path = make_folder(tmp_path / "f", pixels(1)), tmp_path / "a.npy"
    np.save(path, pixels(1))

    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert refused(path) == f"{path} cannot be read: Permission denied"
    assert refused(folder).startswith(f"a/000.png in {folder} cannot be read: Permission denied; replace")


def test_array_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array, expected in [
        (
            pixels(1) / 255.0,
            "is float64; images must be uint8, 0..255: scale to 0..255, round and convert with .astype",
        ),
        (pixels(1).astype(np.int32), "is int32; images must be uint8, 0..255: convert with .astype('uint8')"),
        (np.zeros((4, 4), np.uint8), "has the shape [4, 4]; images must be [N,H,W], [N,H,W,C] or [N,C,H,W]"),
        (np.zeros((2, 8, 8, 2), np.uint8), "has the shape [2, 8, 8, 2]; images must be"),
        (np.zeros((1, 8, 0, 3), np.uint8), "has the shape [1, 8, 0, 3], so there are no images"),
        (np.array([{"code": 1}], dtype=object), "holds Python objects, which could run code and are never loaded"),
    ]:
        np.save(path, array)
        if array.size == 0:
            np.savez(tmp_path / "a.npz", images=array)
            assert expected in refused(tmp_path / "a.npz")
        else:
            assert f"{path} {expected}" in refused(path)
    np.save(path, pixels(1))
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path} cannot be read as NumPy's .npy file" in refused(path)


def test_npz_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=pixels(1), labels=CLASSES)
    assert f"{path} has no array named 'images'; its keys are: labels, x; name the images" in refused(path)
    np.savez(path, images=pixels(1), labels=CLASSES, extra=np.array([{}], dtype=object))
    assert len(open_dataset(path)) == N  # what is not asked for is never loaded
    np.savez(path, images=np.array([{}], dtype=object))
    assert "holds Python objects" in refused(path)
    for labels, expected in [
        (None, "a has no labels, which --cond needs: " + str(path) + " has no array named 'labels'; add them or leave"),
        (np.arange(5), f"{path} has {N} images but 5 labels"),
        (
            np.eye(N),
            f"the labels of {path} must be one integer class per image, shape [{N}]; they are float64 of shape",
        ),
        (np.arange(N) - 1, f"{path} has the class -1; classes must be integers 0..K-1"),
        (np.arange(N) * 2, f"{path} has classes up to 22 but no image of class 1"),
    ]:
        np.savez(path, images=pixels(1), **({} if labels is None else {"labels": labels}))
        assert expected in refused(path, cond=True)
        assert len(open_dataset(path)) == N


def test_idx_mistakes(tmp_path: Path) -> None:
    path = make_idx(tmp_path, pixels(1), None, suffix="")
    assert f"there is no train-labels-idx1-ubyte beside {path}" in refused(path, cond=True)
    path.write_bytes(idx(pixels(1)[..., 0])[:-5])
    assert f"{path} is cut short or damaged: its header says [12, 16, 16], 3072 bytes, and 3067 follow" in refused(path)
    path.write_bytes(idx(pixels(1)[..., 0].reshape(-1)))
    assert "its magic number is 2049, expected 2051 (uint8, 3 dimensions); that is a file of labels" in refused(path)
    path.write_bytes(idx(pixels(1)[:0, ..., 0]))
    assert f"{path} holds no images: its shape is [0, 16, 16]" in refused(path)
    packed = make_idx(tmp_path / "gz", pixels(1), CLASSES)
    packed.write_bytes(packed.read_bytes()[:-20])
    assert f"{packed} cannot be read: " in refused(packed)
    labels = make_idx(tmp_path / "l", pixels(1), CLASSES[:-1])
    assert f"{labels} has {N} images but {N - 1} labels" in refused(labels, cond=True)


def test_corrupt_images_are_named(tmp_path: Path, lazy: None) -> None:
    folder = make_folder(tmp_path / "f", pixels(3))
    whole = (folder / "a/003.png").read_bytes()
    for content, reason in [
        (b"", "it is empty, cut short or no image"),
        (b"hello", "it is empty, cut short or no image"),
        (whole[:-60], "image file is truncated"),
        (whole[:60] + bytes(30) + whole[90:], ""),
    ]:
        (folder / "a/003.png").write_bytes(content)
        for workers in (0, 3):
            text = refused(folder, workers=workers)
            assert text.startswith(f"a/003.png in {folder} cannot be read: {reason}")
            assert text.endswith("; replace or remove it")
    text = refused(make_zip(tmp_path / "a.zip", folder))
    assert text.startswith(f"a/003.png in {tmp_path}/a.zip cannot be read: ")


def test_damaged_zip_member(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", make_folder(tmp_path / "f", pixels(3)))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("a/001.bmp").header_offset
    content[at + 300] ^= 255  # a pixel: only the checksum of the zip can tell
    path.write_bytes(content)
    assert f"a/001.bmp in {path} cannot be read: Bad CRC-32" in refused(path)


def test_modes_that_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    save(folder / "a.png", pixels(1)[0])
    for name, image in [("x.png", np.zeros((R, R), np.uint16)), ("y.tiff", np.zeros((R, R), np.float32))]:
        Image.fromarray(image).save(folder / name)
        kind = "16-bit" if name == "x.png" else "floating-point"
        assert f"{name} in {folder} is a {kind} image; only 8 bits per channel are read" in refused(folder)
        (folder / name).unlink()
    (folder / "z.png").write_bytes(png_rgb16())  # Pillow would read it as 8 bits without a word
    assert f"z.png in {folder} is a 16-bit image" in refused(folder)
    (folder / "z.png").unlink()
    save(folder / "z.png", pixels(3)[0])
    assert refused(folder) == (
        f"images differ in colour: a.png in {folder} is grey, z.png in {folder} is RGB; convert them to one kind"
    )


def png_rgb16() -> bytes:
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(R * 6) for _ in range(R))
    head = struct.pack(">IIBBBBB", R, R, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_manifest_mistakes(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", pixels(1))
    where = f"dataset.json in {folder}"
    assert f"f has no labels, which --cond needs: there is no dataset.json in {folder}" in refused(folder, cond=True)
    good: list[list[Any]] = [[name, 0] for name in names()]
    for content, expected in [
        ("{", f"{where} is not valid JSON ("),
        ("[]", f'{where} must be {{"labels": [[name, class], ...]}}'),
        ('{"labels": null}', "or its labels are null"),
        ("{}", "or its labels are null"),
        ('{"labels": {"a": 1}}', f"the labels of {where} must be a list of [name, class] or null; found a dict"),
        ('{"labels": [["a"]]}', f'the labels of {where} must be pairs [name, class]; found ["a"]'),
        (json.dumps({"labels": good[:4] + good[5:]}), f"{where} has no label for a/004.bmp; --cond needs a label"),
        (json.dumps({"labels": [["a/000.png", 1.5]]}), f"{where} gives a/000.png the class 1.5; classes must be"),
        (json.dumps({"labels": [["a/000.png", True]]}), f"{where} gives a/000.png the class true"),
        (json.dumps({"labels": [[name, -1] for name in names()]}), f"{where} has the class -1"),
        (
            json.dumps({"labels": [[name, 1] for name in names()]}),
            f"{where} has classes up to 1 but no image of class 0",
        ),
    ]:
        (folder / "dataset.json").write_text(content)
        assert expected in refused(folder, cond=True)
        assert len(open_dataset(folder)) == N  # labels that are not used do no harm


# Large sets, progress, cache


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


def test_an_image_that_changes_under_a_run(tmp_path: Path, lazy: None) -> None:
    folder = make_folder(tmp_path / "f", pixels(3))
    data = open_dataset(folder)
    save(folder / "a/000.png", pixels(3, height=8, width=8)[0])
    with pytest.raises(NoiseganError, match=r"a/000.png in .* has changed since the data set was opened"):
        data.images([1, 0])


# Order and prefetching


def test_each_epoch_is_a_permutation() -> None:
    stream, n = Streams(3)["data"], 23
    order = batch_indices(stream, n, 0, 5 * n)
    epochs = [order[e * n : (e + 1) * n] for e in range(5)]
    assert all(sorted(epoch.tolist()) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 5
    assert all(torch.equal(epoch, stream.permutation(n, step=e)) for e, epoch in enumerate(epochs))
    for batch in (1, 7, 23, 50):
        parts = [batch_indices(Streams(3)["data"], n, start, batch) for start in range(0, 5 * n, batch)]
        assert torch.equal(torch.cat(parts)[: 5 * n], order)
    assert not torch.equal(batch_indices(Streams(4)["data"], n, 0, n), epochs[0])
    assert not torch.equal(batch_indices(Streams(3)["eval/data"], n, 0, n), epochs[0])
    assert batch_indices(stream, n, 5, 0).shape == (0,)
    first = batch_indices(stream, n, 0, n)
    first.zero_()
    assert torch.equal(batch_indices(stream, n, 0, n), epochs[0])  # what is given is a copy
    for n, start, count in [(0, 0, 1), (1, -1, 1), (1, 0, -1)]:
        with pytest.raises(ValueError, match="batch_indices needs n >= 1"):
            batch_indices(stream, n, start, count)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("memory", [2**30, 0])
def test_prefetcher_equals_direct_reads(
    tmp_path: Path, workers: int, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", memory)
    data = open_dataset(make_folder(tmp_path / "f", pixels(3), CLASSES), mirror=True, cond=True)
    stream = Streams(1)["data"]
    with Prefetcher(data, stream, 7, 5, workers=workers, ahead=3) as batches:
        for step in range(12):
            images, labels, indices = next(batches)
            assert torch.equal(indices, batch_indices(stream, len(data), 7 + 5 * step, 5))
            assert torch.equal(images, data.images(indices))
            assert torch.equal(labels, data.labels(indices))
    with Prefetcher(data, stream, 4, 4, stride=8, workers=workers) as second_rank:
        for step in range(4):
            assert torch.equal(next(second_rank).indices, batch_indices(stream, len(data), 4 + 8 * step, 4))


def test_prefetcher_surfaces_exceptions_and_closes(tmp_path: Path, lazy: None) -> None:
    folder = make_folder(tmp_path / "f", pixels(3))
    data, stream = open_dataset(folder), Streams(1)["data"]
    bad = int(batch_indices(stream, N, 9, 1))
    (folder / names()[bad]).write_bytes(b"hello")
    with Prefetcher(data, stream, 0, 4) as batches:
        next(batches)
        next(batches)
        for _ in range(2):
            with pytest.raises(NoiseganError, match=f"{names()[bad]} in .* cannot be read"):
                next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("noisegan-prefetch")]
    with pytest.raises(RuntimeError, match="is closed"):
        next(batches)
    with pytest.raises(ValueError, match="Prefetcher needs"):
        Prefetcher(data, stream, 0, 0)


# Files that are whole or not there


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
