"""LPIPS as it is built here is that of the package `lpips`; its weights are verified, and asked for in one sentence."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.inversion import lpips
from noisegan.inversion.losses import Perceptual, make_loss
from noisegan.inversion.lpips import BACKBONES, Lpips, backbone_file, heads_file

CPU = torch.device("cpu")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights but those of packages; nothing is fetched."""
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NOISEGAN_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NOISEGAN_OFFLINE", "1")
    return tmp_path


@pytest.mark.parametrize("net", BACKBONES)
def test_distances_are_those_of_the_package(net: str) -> None:
    """On a backbone of random weights: the real ones cannot be had everywhere, and the formula is the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lpips as package

        torch.manual_seed(0)
        theirs = package.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    layers = {}
    for name, value in theirs.net.state_dict().items():
        slice_, _, rest = name.partition(".")
        assert slice_.startswith("slice")
        layers[f"features.{rest}"] = value
    network = Lpips(net, layers, heads_file(net).load()[0]).eval().requires_grad_(False)
    ours = Perceptual(network, "random")
    a, b = (Streams(0)[name].source(ids=range(2)).normal(3, 64, 64).clamp(-1, 1) for name in "ab")
    leaf = a.clone().requires_grad_()
    distance = ours(leaf, ours.prepare(b))
    torch.testing.assert_close(distance, theirs(a, b).flatten(), rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(distance.sum(), leaf)
    assert float(gradient.abs().sum()) > 0
    small = torch.zeros(1, 3, 8, 8)
    assert ours(small, ours.prepare(small)).tolist() == [0]


def test_the_names_of_the_files_say_their_digests() -> None:
    assert {net: backbone_file(net).sha256 for net in BACKBONES} == {
        "alex": "7be5be79",
        "vgg": "397923af",
        "squeeze": "b8a52dc0",
    }
    for net in BACKBONES:
        file = backbone_file(net)
        assert file.names == (BACKBONES[net].file,)
        assert file.sha256 in file.names[0]
        assert file.url == f"https://download.pytorch.org/models/{file.names[0]}"


def test_missing_weights_are_asked_for(nowhere: Path) -> None:
    with pytest.raises(NoiseganError) as caught:
        make_loss("lpips-vgg", CPU)
    assert str(caught.value) == (
        "the weights of the distance 'lpips-vgg' are not on this machine and NOISEGAN_OFFLINE forbids to fetch them: "
        "use --loss st-lpips-alex, which works offline after pip install 'noisegan[offline]', or put "
        f"vgg16-397923af.pth (sha256 397923af...) in {nowhere}/cache/weights or in the folder $NOISEGAN_WEIGHTS"
    )


def test_weights_of_another_content_are_refused(nowhere: Path) -> None:
    path = nowhere / "weights" / BACKBONES["squeeze"].file
    path.parent.mkdir()
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(NoiseganError) as caught:
        make_loss("lpips-squeeze", CPU)
    assert str(caught.value) == (
        f"{path} is not what the distance 'lpips-squeeze' needs: its sha256 must be b8a52dc0... and is {digest}; "
        "delete or replace the file"
    )


def test_right_weights_are_used_and_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    path = nowhere / "weights" / BACKBONES["squeeze"].file
    path.parent.mkdir()
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    about: Any = BACKBONES["squeeze"]
    monkeypatch.setitem(lpips.BACKBONES, "squeeze", type(about)(**vars(about) | {"sha256": digest}))
    loss = make_loss("lpips-squeeze=0.5", CPU)
    told = loss.describe()["lpips-squeeze"]
    assert told["weight"] == 0.5
    assert told["network"].startswith(f"squeezenet1_1-b8a52dc0.pth sha256:{digest}, lpips-v0.1-squeeze.pth sha256:4a53")
