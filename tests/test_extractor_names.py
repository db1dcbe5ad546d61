"""Extractors by name: built in, a user's module:function, a plugin's; each mistake has its sentence."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import extracting
import pytest
import torch
from extracting import CPU, random_images
from torch import Tensor

from noisegan.api import FeatureExtractor
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins, Provenance
from noisegan.metrics.extractors.registry import make_extractor
from noisegan.metrics.features import extract, to_rgb

places = extracting.places


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
