"""Features of images: colours made one, batches that do not matter, and a cache that knows content and nothing else."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from noisegan.api import FeatureExtractor
from noisegan.core.data import ImageDataset, open_dataset
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.metrics import features
from noisegan.metrics.features import extract, real_features, to_rgb

N, R = 10, 16


class Toy(FeatureExtractor):
    """Means of colours and of one corner; counts the images it has seen."""

    dim = 4

    def __init__(self, digest: str = "1") -> None:
        self.seen, self.digest = 0, digest

    def __call__(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        self.seen += len(images)
        values = images.double()
        return torch.cat([values.mean(dim=(2, 3)), values[:, :1, 0, 0]], dim=1).float()

    def describe(self) -> dict[str, Any]:
        return {"weights": f"toy sha256:{self.digest}", "input": "as it is", "reference": "these tests"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(N):
        Image.fromarray(rng.integers(0, 256, (R, R, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def dataset(folder: Path) -> ImageDataset:
    return open_dataset(folder)


def entry(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


# Colours


def test_to_rgb_grey_and_colour() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 256, (3, 1, 5, 4), generator=generator, dtype=torch.uint8)
    assert torch.equal(to_rgb(grey), torch.cat([grey] * 3, dim=1))
    assert to_rgb(grey).is_contiguous()
    colour = torch.randint(0, 256, (3, 3, 5, 4), generator=generator, dtype=torch.uint8)
    assert torch.equal(to_rgb(colour), colour)


def test_to_rgb_composites_over_white() -> None:
    """c a + 255 (1 - a), rounded to the nearest, for all 65,536 pairs of colour and alpha."""
    colour, alpha = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    rgba = torch.stack([colour, colour, 255 - colour, alpha])[None].to(torch.uint8)
    got = to_rgb(rgba)
    assert got.shape == (1, 3, 256, 256)
    assert got.dtype == torch.uint8
    for channel, value in enumerate((colour, colour, 255 - colour)):
        exact = value.double() * alpha / 255 + 255 * (1 - alpha.double() / 255)
        assert (got[0, channel] - exact).abs().max() <= 0.5 + 1e-9
    assert torch.equal(got[0, 0, :, 255], torch.arange(256).to(torch.uint8))
    assert (got[..., 0] == 255).all()


def test_to_rgb_refuses_other_channels() -> None:
    with pytest.raises(NoiseganError, match="images with 1, 3 or 4 channels, got 2"):
        to_rgb(torch.zeros(1, 2, 4, 4, dtype=torch.uint8))


# Batches


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_batches_do_not_matter(channels: int) -> None:
    images = torch.randint(0, 256, (7, channels, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    whole = extract(Toy(), images)
    assert whole.shape == (7, 4)
    assert whole.dtype == torch.float32
    for batch in (1, 2, 3, 7, 100):
        assert torch.equal(extract(Toy(), images, batch), whole)
    assert extract(Toy(), images[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda n: torch.zeros(n, 5), r"must return floats \[2, 4\] for 2 images, got float32 \[2, 5\]"),
        (lambda n: torch.zeros(n + 1, 4), r"got float32 \[3, 4\]"),
        (lambda n: torch.zeros(n, 4, 1), r"got float32 \[2, 4, 1\]"),
        (lambda n: torch.zeros(n, 4, dtype=torch.int64), r"got int64 \[2, 4\]"),
        (lambda n: np.zeros((n, 4)), r"must return a tensor \[2, 4\] for 2 images, got ndarray"),
        (
            lambda n: torch.tensor([[0.0] * 4, [0, 0, float("nan"), 0]]),
            "not finite for 1 of 2 images, first for image 1",
        ),
        (lambda n: torch.tensor([[0.0, 0, float("inf"), 0]] * n), "not finite for 2 of 2 images, first for image 0"),
    ],
)
def test_wrong_features(result: Callable[[int], Any], message: str, dataset: ImageDataset, cache: Path) -> None:
    class Wrong(Toy):
        def __call__(self, images: Tensor) -> Tensor:
            made: Tensor = result(len(images))
            return made

    with pytest.raises(NoiseganError, match=message):
        extract(Wrong(), torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(NoiseganError, match="a feature extractor"):
        real_features(dataset, "wrong", Wrong(), 2)
    assert not cache.exists()


def test_other_floats_become_float32() -> None:
    class Double(Toy):
        def __call__(self, images: Tensor) -> Tensor:
            return super().__call__(images).double().requires_grad_()

    made = extract(Double(), torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert made.dtype == torch.float32
    assert not made.requires_grad


# Real images


def test_all_in_order_or_some_in_a_fixed_random_order(dataset: ImageDataset) -> None:
    every = extract(Toy(), dataset.images(range(N)))
    assert torch.equal(real_features(dataset, "toy", Toy(), None), every)
    order = Streams(0)["eval/reals"].permutation(N)
    assert order.tolist() != list(range(N))
    for count in (1, 4, N):
        assert torch.equal(real_features(dataset, "toy", Toy(), count, batch=3), every[order[:count]])


@pytest.mark.parametrize("count", [0, -1, N + 1])
def test_wrong_count(dataset: ImageDataset, count: int) -> None:
    with pytest.raises(NoiseganError) as caught:
        real_features(dataset, "toy", Toy(), count)
    assert str(caught.value) == (f"features of {count} real images were asked for and images has {N}; ask for 1 to {N}")


def test_mirrored_images_count(folder: Path) -> None:
    assert real_features(open_dataset(folder, mirror=True), "toy", Toy(), None).shape == (2 * N, 4)


def test_progress(dataset: ImageDataset) -> None:
    calls: list[tuple[int, int]] = []
    real_features(dataset, "toy", Toy(), 7, batch=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 7), (6, 7), (7, 7)]
    real_features(dataset, "toy", Toy(), 7, batch=3, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == 3


# The cache


def hits(data: ImageDataset, name: str = "toy", count: int | None = 4, digest: str = "1") -> bool:
    extractor = Toy(digest)
    real_features(data, name, extractor, count)
    return extractor.seen == 0


def test_the_cache_knows_content_only(dataset: ImageDataset, folder: Path, tmp_path: Path) -> None:
    first = real_features(dataset, "toy", Toy(), 4)
    assert hits(dataset)
    packed = tmp_path / "elsewhere.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    assert hits(open_dataset(packed))
    assert torch.equal(real_features(open_dataset(packed), "toy", Toy(), 4), first)


def test_the_cache_misses_whatever_differs(dataset: ImageDataset, folder: Path) -> None:
    assert not hits(dataset)
    for change in ({"name": "other"}, {"count": 5}, {"count": None}, {"digest": "2"}):
        assert not hits(dataset, **change), change  # type: ignore[arg-type]
    for choices in ({"mirror": True}, {"resolution": 8, "resize": "box"}, {"resolution": 8, "resize": "lanczos"}):
        assert not hits(open_dataset(folder, **choices)), choices  # type: ignore[arg-type]
    assert hits(dataset)
    image = np.array(Image.open(folder / "3.png"))
    image[5, 5, 0] ^= 1
    Image.fromarray(image).save(folder / "3.png")
    assert not hits(open_dataset(folder))
    assert hits(dataset)


def test_the_cache_misses_other_versions(dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hits(dataset)
    monkeypatch.setattr(features, "FORMAT", 2)
    assert not hits(dataset)
    monkeypatch.setattr(features.PIL, "__version__", "0.0")
    assert not hits(dataset)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def of_something_else(path: Path) -> None:
    """A file of good form under this name that holds features of other images."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata, tensor = file.metadata(), file.get_tensor("features")
    save_file({"features": tensor}, path, metadata=metadata | {"facts": metadata["facts"].replace('"toy"', '"x"')})


def without_metadata(path: Path) -> None:
    save_file({"features": torch.zeros(4, 4)}, path)


def of_another_shape(path: Path) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata, tensor = file.metadata(), file.get_tensor("features")
    save_file({"features": tensor.reshape(2, 8)}, path, metadata=metadata)


@pytest.mark.parametrize("damage", [truncated, emptied, flipped, of_something_else, without_metadata, of_another_shape])
def test_a_damaged_entry_is_made_anew(dataset: ImageDataset, cache: Path, damage: Callable[[Path], None]) -> None:
    good = real_features(dataset, "toy", Toy(), 4)
    whole = entry(cache).read_bytes()
    damage(entry(cache))
    assert entry(cache).read_bytes() != whole
    extractor = Toy()
    assert torch.equal(real_features(dataset, "toy", extractor, 4), good)
    assert extractor.seen == 4
    assert hits(dataset)


def test_a_cache_that_cannot_be_written_only_costs_time(
    dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = real_features(dataset, "toy", Toy(), 4)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "file"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for count in (4, 4, 5):
            made = real_features(dataset, "toy", Toy(), count)
            assert torch.equal(made[:4], expected)
    (warning,) = caught
    assert str(warning.message) == (
        "features of real images are made anew each time, for nothing can be written in "
        f"{tmp_path / 'file' / 'features'} (Not a directory)"
    )
