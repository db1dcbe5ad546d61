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
from scipy.stats import ttest_1samp, wilcoxon
from test_cli_train import mistake, run

from noisegan.compare.inversion import MEASURES, ROC, by_image, compare_inversions, hard_images
from noisegan.compare.report.inversion import inversion_section
from noisegan.compare.statistics import holm
from noisegan.inversion.summary import contrasts, paired_tests
from noisegan.paired import FLIPS, sign_flip_p, wilcoxon_p


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
                | {"images_measured": [measured(rng, i, d, maps=label == "b") for i, d in enumerate(values)]}
                for kind, values in distances.items()
            ]
            shared = {"projector": {}, "precision": "fp32", "real_images": {}, "own_images": n, "hard_labels": [1]}
            evaluations.append(shared | {"loss_weights": {}, "cells": cells})
            runs.append({"variant": label, "seed": seed, "snapshot": "s", "folder": f"runs/{label}-seed{seed}"})
    return compare_inversions({"experiment": experiment}, runs, evaluations)


def measured(rng: np.random.Generator, i: int, distance: float, *, maps: bool) -> dict[str, Any]:
    """A row of evaluation.json; that of image 0 with maps is equal to its target, so that its PSNR is None."""
    row = {"image": f"{i}", "distance": distance, "class": i % 2, "mse": distance**2, "ssim": 1 - distance}
    row |= {"psnr": None if maps and i == 0 else -20 * math.log10(abs(distance)), "seconds": 0.5}
    row |= {"fresh_distance": 2 * distance, "lost_with_fresh_noise": distance}
    return row | ({"autocorrelation": rng.random(), "all_lags": 1.0, "mutual_information": 0.1} if maps else {})


def test_all_measures_are_compared_where_they_are() -> None:
    found = made_up(-0.2, 0.001)
    real, own = (cell["all"] for cell in found["cells"])
    assert list(real) == list(own) == list(MEASURES)
    assert {name: measure["better"] for name, measure in real.items()} == MEASURES
    lost = real["lost_with_fresh_noise"]["comparisons"][0]
    assert (lost["verdict"], lost["sentence"], lost["by_image"]["share_better"]) == (None, None, None)
    assert lost["mean_difference"] == pytest.approx(real["distance"]["comparisons"][0]["mean_difference"])
    assert lost["p_value"] < 0.05
    carried = real["mutual_information"]  # the baseline has no maps
    assert carried["scores"] == {"a": [None] * 3, "b": [pytest.approx(0.1)] * 3}
    assert carried["summary"]["a"]["mean"] is None
    assert (carried["comparisons"][0]["n"], carried["comparisons"][0]["by_image"]) == (0, None)
    psnr = real["psnr"]  # without the image that has none in one network: for all
    assert psnr["n_images"] == psnr["comparisons"][0]["by_image"]["n_images"] == 39
    assert psnr["comparisons"][0]["verdict"] == "better"
    assert real["mse"]["n_images"] == 40
    json.dumps(found, allow_nan=False)


def test_attribution_keeps_its_curves_and_no_interval_beyond_one() -> None:
    clipped = 0
    for luck in range(5):
        part = made_up(0.0, 0.3, luck)["attribution"][0]
        for label in "ab":
            low, high = part["summary"][label]["interval"]
            assert 0 <= low <= high <= 1
            clipped += low < high == 1
        assert [(curve["variant"], curve["seed"]) for curve in part["roc"]] == [(v, s) for v in "ab" for s in range(3)]
        for curve in part["roc"]:
            x, y = curve["false_positives"], curve["true_positives"]
            assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
            assert len(x) == len(y) <= ROC
            assert np.trapezoid(y, x) == pytest.approx(part["scores"][curve["variant"]][curve["seed"]], abs=0.02)
    assert clipped


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
    assert (found["p_value"], found["p_wilcoxon"]) == (0.5, 0.5)  # two of four flips are as far
    found = by_image(variant, [baseline[0], {"x": 4.0, "y": 2.0}], better="higher", alpha=0.05)  # -1, 0
    assert found is not None
    half = 12.7062 * math.sqrt(0.5) / math.sqrt(2)
    assert found["interval"] == pytest.approx([-0.5 - half, -0.5 + half], rel=1e-5)
    assert found["share_better"] == 0
    assert by_image([], [], better="lower", alpha=0.05) is None


def test_tests_by_image_agree_with_others_and_keep_their_level() -> None:
    rng = np.random.default_rng(0)
    few = rng.normal(0.4, 1, 10).round(1)
    assert paired_tests(few) == {"p_value": sign_flip_p(few), "p_wilcoxon": wilcoxon_p(few)}  # all flips
    for shift in (0.0, 0.2, 0.4):
        many = rng.normal(shift, 1, 60)
        found = paired_tests(many)
        assert found["p_value"] == pytest.approx(ttest_1samp(many, 0).pvalue, abs=0.02)
        assert found["p_wilcoxon"] == pytest.approx(wilcoxon(many).pvalue, abs=0.02)
    assert paired_tests(rng.normal(3, 1, 60)) == dict.fromkeys(("p_value", "p_wilcoxon"), 1 / (FLIPS + 1))
    rows = [[{"image": str(i), "distance": d} for i, d in enumerate(values)] for values in (few, np.zeros(10))]
    about = {"images": "real", "space": "w"}
    (effect,) = contrasts([about | {"noise": n, "images_measured": r} for n, r in zip(("a", "b"), rows, strict=True)])
    assert {name: effect[name] for name in ("p_value", "p_wilcoxon")} == paired_tests(-few)
    assert paired_tests(np.zeros(20)) == {"p_value": 1, "p_wilcoxon": 1}
    chance = [paired_tests(rng.standard_t(3, 25)) for _ in range(400)]
    for name in ("p_value", "p_wilcoxon"):
        assert np.mean([p[name] <= 0.05 for p in chance]) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 400))


def test_holms_correction_of_tests_by_image_is_over_the_variants() -> None:
    rng = np.random.default_rng(1)
    noise = {label: 0.1 * rng.normal(size=12) for label in "abc"}
    cell = {"images": "real", "space": "w", "noise": "off", "curve": {"step": [1], "seconds": [1], "distance": [1]}}
    evaluations = [
        {
            "projector": {},
            "precision": "fp32",
            "real_images": {},
            "own_images": 0,
            "hard_labels": [],
            "loss_weights": {},
        }
        | {"cells": [cell | {"images_measured": [{"image": str(i), "distance": d} for i, d in enumerate(values)]}]}
        for values in noise.values()
    ]
    runs = [{"variant": label, "seed": 0, "snapshot": "s", "folder": label} for label in "abc"]
    experiment = {"alpha": 0.05, "baseline": "a", "seeds": [0], "variants": [{"label": label} for label in "abc"]}
    found = compare_inversions({"experiment": experiment}, runs, evaluations)["cells"][0]["all"]["distance"]
    by = [c["by_image"] for c in found["comparisons"]]
    assert [each["p_holm"] for each in by] == holm([each["p_value"] for each in by])
    assert min(each["p_holm"] for each in by) == 2 * min(each["p_value"] for each in by)
    assert [each["p_value"] for each in by] == [paired_tests(noise[v] - noise["a"])["p_value"] for v in "bc"]


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
    assert page.count("<svg") == before.count("<svg") + 2 * 2 + (2 * 2 + 2) + (
        2 + 2
    )  # histograms; curves, ROC curves with legends
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
