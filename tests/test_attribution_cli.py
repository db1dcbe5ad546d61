"""`noisegan attribute` from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli_train import mistake, run
from test_inversion_eval import images, trained

import noisegan
from noisegan.core.images import save_image, to_bytes
from noisegan.core.sampling import render, styles_of_seeds

__all__ = ["trained"]  # a fixture


def test_own_images_are_told_from_others(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random pixels are real here: a network of a few steps cannot show them, and its own images it can."""
    network, both = trained
    G = noisegan.load(network).G_ema
    (own,) = render(G, styles_of_seeds(G, [7]), [7], mode="frozen", noise_seed=3)
    (tmp_path / "photos").mkdir()
    save_image(to_bytes(own)[0], tmp_path / "photos" / "own.png")
    Image.fromarray(images(1, 9)[0, :, :, 0]).save(tmp_path / "photos" / "random.png")
    out = tmp_path / "out"
    arguments = [
        "attribute", str(tmp_path / "photos"), "--network", str(network), "--data", str(both), "--images", "4",
        "--false-positives", "0.2", "--steps", "10", "--loss", "mse", "--device", "cpu", "--outdir", str(out),
        "--noise-seed", "2",
    ]  # fmt: skip
    code, text, err = run(capsys, *arguments)
    assert code == 0, err
    found = json.loads((out / "attribution.json").read_text())
    assert found["auc"] == 1
    assert found["auc_interval"] == pytest.approx([0.025**0.25, 1])
    assert {row["image"]: row["decision"] for row in found["images"]} == {
        "own": "generated",
        "random": "not told from real",
    }
    assert next(row["p_real"] for row in found["images"] if row["image"] == "own") == pytest.approx(0.2)
    assert found["real_images"]["trained_on"] == 0
    assert found["projector"]["noise_seed"] == 2
    assert json.loads((out / "inverted" / "own" / "settings.json").read_text())["noise_seed"] == 2
    assert text.splitlines()[1].startswith("area under the ROC curve 1.000 (95 % interval 0.398 to 1.000), 4 images of")
    assert np.asarray(Image.open(out / "attribution.png")).shape[1] == 1200
    code, text, err = run(capsys, *arguments)
    assert code == 0, err
    assert "2 of 2 images are there already" in text
    assert json.loads((out / "attribution.json").read_text()) == found
    arguments[1] = str(tmp_path / "photos" / "random.png")
    assert run(capsys, *arguments)[0] == 0
    others = [row for row in found["images"] if row["image"] == "random"]
    assert json.loads((out / "attribution.json").read_text()) == found | {"images": others}


def test_mistakes_come_before_the_work(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, both = trained
    base = ["attribute", "--network", str(network), "--data", str(both), "--outdir", str(tmp_path / "o")]
    assert mistake(capsys, *base, "--images", "4") == (
        "error: 4 real images cannot tell a share of 0.05 false positives: give 19 or more with --images, or allow "
        "more with --false-positives"
    )
    assert mistake(capsys, *base, "--images", "20") == (
        "error: 16 real images of both; 20 were asked for and there are no more; 16 were left out as the network was "
        "trained on them: too few to tell a share of 0.05 false positives; name others with --data, or allow more with "
        "--false-positives"
    )
    assert mistake(capsys, *base, "--images", "-5") == "error: --images must be 2 or more, not -5"
    assert mistake(capsys, *base, "--space", "q") == "error: space 'q' is unknown: choose w, w+, z, pti"
    assert mistake(capsys, *base, str(tmp_path / "none")) == (
        f"error: there is nothing at {tmp_path}/none: name an image, or a folder of images"
    )
    assert not list((tmp_path / "o").iterdir())
