"""Inversion of a whole comparison: both levels of evidence, the command, the section of the report."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import compare, read, small
from test_cli_train import mistake, run

from noisegan.compare.inversion import by_image, compare_inversions, hard_images
from noisegan.compare.report.inversion import inversion_section


def made_up(effect: float, spread_of_networks: float, luck: int = 0, seeds: int = 3, n: int = 40) -> dict[str, Any]:
    """Distances with a true effect on this set of networks, and how much trainings differ."""
    rng = np.random.default_rng(luck)
    image, results = rng.gamma(4, 0.1, n), {"alpha": 0.05, "baseline": "a", "seeds": list(range(seeds))}
    experiment = results | {"variants": [{"label": "a"}, {"label": "b"}]}
    runs, evaluations = [], []
    for label in "ab":
        for seed in range(seeds):
            own_luck = spread_of_networks * rng.normal()
            distances = {
                "real": image + (effect if label == "b" else 0) + own_luck + 0.01 * rng.normal(size=n),
                "own": 0.1 * rng.random(n),
            }
            curve = {"step": [1, 3], "seconds": [0.5, 1.5 + seed], "distance": [1.0, 0.5 - seed / 10]}
            cells = [
                {"images": kind, "space": "w", "noise": "off", "curve": curve}
                | {"images_measured": [{"image": f"{i}", "distance": d, "class": i % 2} for i, d in enumerate(values)]}
                for kind, values in distances.items()
            ]
            shared = {"projector": {}, "precision": "fp32", "real_images": {}, "own_images": n, "hard_labels": [1]}
            evaluations.append(shared | {"loss_weights": {}, "cells": cells})
            runs.append({"variant": label, "seed": seed, "snapshot": "s", "folder": f"runs/{label}-seed{seed}"})
    return compare_inversions({"experiment": experiment}, runs, evaluations)


def test_trainings_are_the_units_and_images_are_not() -> None:
    """Networks that differ by chance alone: by image they nearly always differ, variants are told apart rarely."""
    told, by_images = 0, 0
    for luck in range(60):
        chance = made_up(0.0, 0.1, luck)["cells"][0]["all"]["distance"]["comparisons"][0]
        by = chance["by_image"]
        assert (by["n_images"], by["n_networks"]) == (40, 3)
        assert chance["mean_difference"] == pytest.approx(by["mean_difference"])
        by_images += not by["interval"][0] < 0 < by["interval"][1]
        told += chance["verdict"] != "cannot tell"
    assert by_images > 50
    assert told <= 8  # 3 expected; more than 8 once in 200 such tests
    real = made_up(-0.2, 0.001)["cells"][0]["all"]["distance"]["comparisons"][0]
    assert real["verdict"] == "better"
    assert real["by_image"]["share_better"] == 1


def test_own_images_are_not_paired_and_hard_images_are_those_of_all() -> None:
    found = made_up(-0.2, 0.001)
    real, own = found["cells"]
    assert "by_image" not in own["all"]["distance"]["comparisons"][0]
    assert "hard" not in own
    assert real["hard"]["distance"]["n_images"] == 4
    assert real["hard_labels"]["distance"]["n_images"] == 20
    assert found["attribution"][0]["summary"]["a"]["mean"] > 0.9
    rows = {
        ("a", 0): [{"image": str(i), "distance": 10.0 * i} for i in range(10)],
        ("b", 0): [{"image": str(i), "distance": 30.0 if i == 0 else 0.0} for i in range(10)],
    }
    assert hard_images(rows) == {"9"}


def test_differences_by_image_have_known_answers() -> None:
    variant = [{"x": 1.0, "y": 2.0}, {"x": 3.0, "y": 2.0}]
    baseline = [{"x": 2.0, "y": 2.0}, {"x": 4.0, "y": 4.0}]
    found = by_image(variant, baseline, better="lower", alpha=0.05)  # differences -1 and -1
    assert found is not None
    assert (found["mean_difference"], found["interval"], found["share_better"]) == (-1, [-1, -1], 1)
    found = by_image(variant, [baseline[0], {"x": 4.0, "y": 2.0}], better="higher", alpha=0.05)  # -1, 0
    assert found is not None
    half = 12.7062 * math.sqrt(0.5) / math.sqrt(2)
    assert found["interval"] == pytest.approx([-0.5 - half, -0.5 + half], rel=1e-5)
    assert found["share_better"] == 0
    assert by_image([], [], better="lower", alpha=0.05) is None


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done") / "out"
    compare(small("none", "additive(strength=0.3)"), folder, drawn=True)
    return folder


def test_a_comparison_is_inverted_and_reported(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    pictures = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "new.npz", images=pictures)
    arguments = [
        "invert-eval", "--experiment", str(out), "--data", str(tmp_path / "new.npz"), "--images", "5", "--own-images",
        "3", "--spaces", "w", "--noise", "off,optimised", "--steps", "3", "--loss", "mse", "--device", "cpu",
    ]  # fmt: skip
    code, text, err = run(capsys, *arguments)
    assert code == 0, err
    assert text.splitlines()[:2] == ["5 real images of new", "network 1 of 4: none, seed 0"]
    found = json.loads((out / "inversion" / "inversion.json").read_text())
    assert [(c["images"], c["space"], c["noise"]) for c in found["cells"]] == [
        ("real", "w", "off"), ("real", "w", "optimised"), ("own", "w", "off"), ("own", "w", "optimised"),
    ]  # fmt: skip
    distance = found["cells"][0]["all"]["distance"]
    assert len(distance["scores"]["none"]) == 2
    assert distance["comparisons"][0]["n"] == 2
    page = (out / "report" / "index.html").read_text()
    assert "<h2>Inversion</h2>" in page
    before = (done / "report" / "index.html").read_text()
    assert page.count("data:image/png") == before.count("data:image/png") + 5 * (1 + 2 * 2)
    assert page.count("<svg") == before.count("<svg") + 2 * 2 + 2 * 2 + 2  # histograms, curves, their legend
    assert without_section(page) == without_section(before)
    results = read(out)
    assert results["metrics"] == read(done)["metrics"]
    other = "The comparison has other networks now"
    assert other not in page
    results["runs"][0]["snapshot"] = "network-snapshot-000001.safetensors"
    assert other in inversion_section(out / "inversion", found, results)[1]


def without_section(page: str) -> str:
    """What stands before the sections of plugins, without their entries in the table of contents."""
    return re.sub(r'<li><a href="#section-.*', "", page.split('<section id="section-')[0])


def test_mistakes_get_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mistake(capsys, "invert-eval", "--experiment", str(tmp_path)) == (
        f"error: {tmp_path} holds no results.json: finish the comparison there first"
    )
    either = "error: give --network with --outdir, or --experiment with the folder of a comparison and neither of them"
    assert mistake(capsys, "invert-eval", "--experiment", str(tmp_path), "--outdir", str(tmp_path / "o")) == either
    assert mistake(capsys, "invert-eval", "--network", str(tmp_path)) == either
    assert mistake(capsys, "invert-eval") == either
