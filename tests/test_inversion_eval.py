"""Evaluating inversion: which images are held out, what is written, going on, mistakes."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_cli_train import mistake, run
from training import SMALL

import noisegan
from noisegan.core.checkpoint import find_snapshot, read_facts
from noisegan.errors import Interrupted, NoiseganError
from noisegan.inversion import heldout
from noisegan.inversion.evaluate import evaluate_inversion
from noisegan.inversion.heldout import choose_held_out
from noisegan.inversion.projector import Projector
from noisegan.inversion.summary import contrasts, mean_interval, summarise, worst_images

QUICK: dict[str, Any] = {"steps": 4, "loss": "mse", "device": "cpu", "batch": 8}


def images(n: int, seed: int, channels: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, (n, 8, 8, channels), dtype=np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network trained on 16 images, and 32 images of which the first 16 are those; two classes."""
    folder = tmp_path_factory.mktemp("eval")
    both = np.concatenate([images(16, 0), images(16, 1)])
    np.savez(folder / "training.npz", images=both[:16])
    np.savez(folder / "both.npz", images=both, labels=np.arange(32) % 2)
    options = SMALL | {"data": str(folder / "training.npz"), "kimg": 0.008, "tick": 0.008}
    network = noisegan.train(outdir=str(folder / "runs"), quiet=True, noise="additive(strength=0.3)", **options)
    return network, folder / "both.npz"


def facts_of(network: Path) -> dict[str, Any]:
    return read_facts(find_snapshot(network))


def test_what_was_trained_on_is_left_out(trained: tuple[Path, Path]) -> None:
    network, both = trained
    found = choose_held_out(facts_of(network), count=100, data=str(both), labels=True)
    assert found.indices == list(range(16, 32))
    assert found.classes == [0, 1] * 8
    assert found.trained_on == [False] * 16
    assert found.about["left_out_as_trained_on"] == 16
    assert found.about["known"] == "every image was compared with all 16 training images"
    assert found.names[0] == "image-000016"
    few = choose_held_out(facts_of(network), count=4, data=str(both))
    more = choose_held_out(facts_of(network), count=9, data=str(both))
    assert set(few.indices) < set(more.indices)
    assert few.classes is None
    other = choose_held_out(facts_of(network), count=4, data=str(both), seed=1)
    assert other.indices != few.indices
    allowed = choose_held_out(facts_of(network), count=32, data=str(both), allow_trained=True)
    assert allowed.trained_on == [True] * 16 + [False] * 16
    assert allowed.about["trained_on"] == 16


def test_flipped_training_images_count_as_trained_on(tmp_path: Path) -> None:
    pictures = images(16, 2)
    np.savez(tmp_path / "training.npz", images=pictures)
    np.savez(tmp_path / "flipped.npz", images=np.concatenate([pictures[:, :, ::-1], images(2, 3)]))
    options = SMALL | {"data": str(tmp_path / "training.npz"), "kimg": 0.008, "tick": 0.008, "mirror": True}
    network = noisegan.train(outdir=str(tmp_path / "runs"), quiet=True, **options)
    assert choose_held_out(facts_of(network), count=9, data=str(tmp_path / "flipped.npz")).indices == [16, 17]


def test_when_training_images_are_gone_nothing_is_claimed(tmp_path: Path) -> None:
    np.savez(tmp_path / "training.npz", images=images(16, 2))
    np.savez(tmp_path / "new.npz", images=images(4, 3))
    options = SMALL | {"data": str(tmp_path / "training.npz"), "kimg": 0.008, "tick": 0.008}
    network = noisegan.train(outdir=str(tmp_path / "runs"), quiet=True, **options)
    np.savez(tmp_path / "training.npz", images=images(16, 4))
    found = choose_held_out(facts_of(network), count=4, data=str(tmp_path / "new.npz"))
    assert found.trained_on is None
    assert found.about["known"] == (
        f"not known: {tmp_path}/training.npz holds other images now than the network was trained on"
    )
    (tmp_path / "training.npz").unlink()
    found = choose_held_out(facts_of(network), count=4, data=str(tmp_path / "new.npz"))
    assert found.about["known"].startswith("not known: the training images cannot be read (there is no data set")


def test_fashion_mnist_means_its_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heldout, "FASHION_SYSTEM", tmp_path / "system")
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "cache"))
    cache = tmp_path / "cache" / "fashion-mnist"
    places = f"{tmp_path}/system, {cache}, {cache}/FashionMNIST/raw"
    with pytest.raises(NoiseganError) as caught:
        heldout._fashion_test()
    assert str(caught.value) == (
        f"the test images of fashion-mnist are not on this machine (looked in {places}): put t10k-images-idx3-ubyte.gz "
        f"and its labels in {cache}, or name other images with --data"
    )
    cache.mkdir(parents=True)
    (cache / "t10k-images-idx3-ubyte").touch()
    assert heldout._fashion_test() == cache / "t10k-images-idx3-ubyte"


def test_an_evaluation_from_end_to_end(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, both = trained
    out = tmp_path / "out"
    arguments = [
        "invert-eval", "--network", str(network), "--data", str(both), "--images", "5", "--own-images", "3",
        "--hard-labels", "1", "--steps", "4", "--loss", "mse", "--device", "cpu", "--outdir", str(out),
        "--seed", "1", "--noise-seed", "2", "--pti-steps", "5", "--pti-lr", "0.01",
    ]  # fmt: skip
    code, text, err = run(capsys, *arguments)
    assert code == 0, err
    lines = text.splitlines()
    assert lines[0].startswith("5 real images of both; ")
    assert len([line for line in lines if line.startswith("inverted: ")]) == 12
    found = json.loads((out / "evaluation.json").read_text())
    assert [(c["images"], c["space"], c["noise"]) for c in found["cells"]] == [
        (kind, space, noise)
        for kind in ("real", "own")
        for space in ("w", "w+")
        for noise in ("off", "fixed", "optimised")
    ]
    assert found["real_images"]["trained_on"] == 0
    assert {name: found["projector"][name] for name in ("seed", "noise_seed", "pti_steps", "pti_lr")} == {
        "seed": 1, "noise_seed": 2, "pti_steps": 5, "pti_lr": 0.01,
    }  # fmt: skip
    assert len(found["contrasts"]) == 2 * (3 + 3 + 3)
    for cell in found["cells"]:
        every = cell["summary"]["all"]
        assert every["distance"]["n"] == cell["n"] == {"real": 5, "own": 3}[cell["images"]]
        assert {"mse", "psnr", "ssim", "seconds"} <= every.keys()
        assert ("fresh_distance" in every) == (cell["noise"] != "off")
        assert ("mutual_information" in every) == (cell["noise"] != "off")
        assert len(cell["worst_images"]) == 1
        assert cell["curve"]["step"] == [1, 2, 3, 4]
        assert cell["curve"]["seconds"][-1] == pytest.approx(every["seconds"]["mean"])
        assert ("hard_labels" in cell["summary"]) == (cell["images"] == "real")
        for row in cell["images_measured"]:
            assert row["distance"] == row["mse"] or row["mse"] == pytest.approx(row["distance"], abs=0.05)  # clamped
    with (out / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * (5 + 3)
    assert {row["class"] for row in rows if row["images"] == "real"} == {"0", "1"}
    before = (out / "inversions" / "real-w-off").stat().st_mtime_ns
    again = run(capsys, *arguments)
    assert again[0] == 0
    assert (out / "inversions" / "real-w-off").stat().st_mtime_ns == before
    assert json.loads((out / "evaluation.json").read_text()) == found
    assert mistake(capsys, *arguments, "--noise-weight", "3") == (
        f"error: {out} holds another evaluation (projector differ); choose another --outdir, or delete it"
    )


def test_a_network_of_classes_is_asked_for_images_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "training.npz", images=images(16, 0), labels=np.arange(16) % 2)
    np.savez(tmp_path / "plain.npz", images=images(6, 1))
    np.savez(tmp_path / "labelled.npz", images=images(6, 1), labels=np.arange(6) % 3)
    options = SMALL | {"data": str(tmp_path / "training.npz"), "kimg": 0.008, "tick": 0.008, "cond": True}
    network = noisegan.train(outdir=str(tmp_path / "runs"), quiet=True, **options)
    assert choose_held_out(facts_of(network), count=3, data=str(tmp_path / "plain.npz")).classes is None
    known = choose_held_out(facts_of(network), count=6, data=str(tmp_path / "labelled.npz"))
    assert known.classes == [0, 1, 2, 0, 1, 2]
    out = tmp_path / "out"
    base = [
        "invert-eval", "--network", str(network), "--images", "2", "--spaces", "w", "--noise", "off", "--steps", "2",
        "--loss", "mse", "--device", "cpu", "--outdir", str(out), "--data", str(tmp_path / "plain.npz"),
    ]  # fmt: skip
    assert mistake(capsys, *base, "--hard-labels", "1") == (
        f"error: {tmp_path}/plain.npz has no labels, which --hard-labels needs: leave it out, or name labelled images"
    )
    needs = "error: this network is conditional: give --class 0 to 1 "
    assert mistake(capsys, *base, "--spaces", "w,z") == needs + "(none was given)"
    assert mistake(capsys, *base, "--class", "7") == needs + "(got 7)"
    assert not list(out.iterdir())
    code, _, err = run(capsys, *base)
    assert code == 0, err


def test_a_mistaken_option_claims_no_folder(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NOISEGAN_OFFLINE", "1")
    network, both = trained
    out = tmp_path / "out"
    base = [
        "invert-eval", "--network", str(network), "--data", str(both), "--images", "2", "--outdir", str(out),
        "--device", "cpu",
    ]  # fmt: skip
    for option, value, sentence in (
        ("--precision", "fp8", "precision 'fp8' is unknown: choose fp32, bf16, fp16"),
        ("--precision", "fp16", "--precision fp16 needs a GPU (a CPU computes it hundreds of times slower): use bf16"),
        ("--class", "1", "this network has no classes: leave out --class"),
        ("--loss", "lpips-vgg", "the weights of the distance 'lpips-vgg' are not on this machine"),
    ):
        assert mistake(capsys, *base, option, value).startswith(f"error: {sentence}")
        assert not list(out.iterdir())
    (out / "settings.json").write_text("[]")
    assert mistake(capsys, *base, "--loss", "mse") == (
        f"error: {out}/settings.json cannot be read; delete it, or choose another --outdir"
    )


def test_the_curve_of_tuned_generators_ends_at_their_distance(trained: tuple[Path, Path], tmp_path: Path) -> None:
    network, both = trained
    common: dict[str, Any] = QUICK | {"data": str(both), "images": 2, "own_images": 0, "noises": ["off"]}
    out = tmp_path / "out"
    out.mkdir()
    list(evaluate_inversion(network, out, spaces=["w"], **common))
    list(evaluate_inversion(network, out, spaces=["w", "pti"], pti_steps=3, **common))  # of which w knows nothing
    plain, tuned = json.loads((out / "evaluation.json").read_text())["cells"]
    curve = tuned["curve"]
    assert curve["step"] == [1, 2, 3, 4, 5, 6, 7]
    assert curve["distance"][:4] == pytest.approx(plain["curve"]["distance"], rel=1e-5)
    assert curve["distance"][-1] == pytest.approx(tuned["summary"]["all"]["distance"]["mean"])
    assert curve["seconds"][-1] == pytest.approx(tuned["summary"]["all"]["seconds"]["mean"])
    rows = [json.loads(file.read_text()) for file in out.glob("inversions/real-pti-off/*/settings.json")]
    tuning = np.mean([row["tuning_seconds"] for row in rows])
    assert curve["seconds"][-1] - curve["seconds"][3] == pytest.approx(tuning)
    assert np.diff(curve["seconds"]) == pytest.approx([curve["seconds"][0]] * 3 + [tuning / 3] * 3)
    for file in out.glob("inversions/real-pti-off/*/settings.json"):  # as earlier versions left them
        about = json.loads(file.read_text())
        del about["tuning_seconds"]
        file.write_text(json.dumps(about))
    list(evaluate_inversion(network, out, spaces=["w", "pti"], pti_steps=3, **common))
    seconds = json.loads((out / "evaluation.json").read_text())["cells"][1]["curve"]["seconds"]
    assert np.diff([0, *seconds]) == pytest.approx([curve["seconds"][-1] / 7] * 7)
    with pytest.raises(NoiseganError, match=r"holds another evaluation \(projector differ\)"):
        list(evaluate_inversion(network, out, spaces=["w", "pti"], pti_steps=4, **common))


def test_what_is_finished_is_kept(trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, both = trained
    out = tmp_path / "out"
    out.mkdir()
    common: dict[str, Any] = QUICK | {"data": str(both), "images": 4, "own_images": 0, "spaces": ["w"], "batch": 2}
    true_run, calls = Projector.run, []

    def stopping(self: Projector, *arguments: Any, **more: Any) -> Any:
        calls.append(len(arguments[0]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return true_run(self, *arguments, **more)

    monkeypatch.setattr(Projector, "run", stopping)
    with pytest.raises(Interrupted, match="the same command goes on"):
        list(evaluate_inversion(network, out, **common))
    assert not (out / "evaluation.json").exists()
    list(evaluate_inversion(network, out, **common))
    assert len(calls) == 4 + 1 + 2  # three cells of two batches, one of them tried twice
    assert len(json.loads((out / "evaluation.json").read_text())["cells"]) == 3


def test_mistakes_get_one_sentence(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, both = trained
    training = both.with_name("training.npz")
    base = ["invert-eval", "--network", str(network), "--outdir", str(tmp_path / "o"), "--device", "cpu"]
    trained_on = (
        f"error: the network was trained on all 16 images of {training}, so none is held out: name others with --data, "
        "or insist with --allow-trained"
    )
    assert mistake(capsys, *base) == trained_on
    assert mistake(capsys, *base, "--data", str(training)) == trained_on
    assert mistake(capsys, *base, "--data", str(both), "--spaces", "w,x") == (
        "error: --spaces w,x: name some of w, w+, z, pti, each once, between commas"
    )
    assert mistake(capsys, *base, "--data", str(both), "--noise", "off,off") == (
        "error: --noise off,off: name some of off, fixed, optimised, each once, between commas"
    )
    assert mistake(capsys, *base, "--data", str(both), "--images", "0") == "error: --images must be 1 or more, not 0"
    assert mistake(capsys, *base, "--data", str(both), "--hard-labels", "0,1") == (
        "error: --hard-labels 0,1: the images drawn have the classes 0, 1; name some of them, not all"
    )
    np.savez(tmp_path / "colour.npz", images=images(4, 0, 3))
    assert mistake(capsys, *base, "--data", str(tmp_path / "colour.npz")) == (
        f"error: {tmp_path}/colour.npz has 3 channels and the network makes 1: name other images with --data"
    )
    assert not list((tmp_path / "o").iterdir())
    (tmp_path / "o" / "mine.txt").touch()
    assert mistake(capsys, *base, "--data", str(both)) == (
        f"error: {tmp_path}/o is not empty and holds no evaluation; choose another --outdir"
    )


def test_summaries_have_known_answers() -> None:
    mean, interval = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2
    assert interval == pytest.approx([2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)], rel=1e-6)
    assert mean_interval(np.array([1.0])) == (1.0, None)
    assert worst_images({f"{i:02d}": float(i % 10) for i in range(20)}) == {"09", "19"}
    assert worst_images({"a": 1.0, "b": 1.0}) == {"a"}
    found = summarise([{"distance": 1.0, "psnr": None}, {"distance": 3.0, "psnr": 7.0}])
    assert found["distance"]["median"] == 2
    assert found["psnr"] == {"n": 1, "mean": 7.0, "std": None, "median": 7.0, "interval": None}

    def cell(space: str, noise: str, *distances: float) -> dict[str, Any]:
        rows = [{"image": str(i), "distance": d} for i, d in enumerate(distances)]
        return {"images": "real", "space": space, "noise": noise, "images_measured": rows}

    cells = [cell("w", "off", 3, 4), cell("w", "fixed", 2, 2), cell("w+", "off", 1, 1), cell("w+", "fixed", 0, 0)]
    effects = contrasts(cells)
    assert [(e["from"], e["to"], e["mean_difference"], e["closer"]) for e in effects] == [
        ({"space": "w", "noise": "off"}, {"space": "w", "noise": "fixed"}, -1.5, 2),
        ({"space": "w", "noise": "off"}, {"space": "w+", "noise": "off"}, -2.5, 2),
        ({"space": "w", "noise": "fixed"}, {"space": "w+", "noise": "fixed"}, -2.0, 2),
        ({"space": "w+", "noise": "off"}, {"space": "w+", "noise": "fixed"}, -1.0, 2),
    ]


def test_own_images_are_those_of_evaluation_seed_zero(trained: tuple[Path, Path]) -> None:
    from noisegan.inversion.evaluate import _own_images

    snapshot = noisegan.load(trained[0])
    few, more = _own_images(snapshot, 2), _own_images(snapshot, 4)
    assert torch.equal(few, more[:2])
    assert few.shape == (2, 1, 8, 8)
