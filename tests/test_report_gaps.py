"""The report of less than everything: what it says of one replicate, failed runs, no noise, and files that are gone."""

# ruff: noqa: RUF001 (the page's own minus signs and dashes)

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reporting
import synthetic_results
from reporting import quickly, report_of, small

from noisegan.compare.report import write_report
from noisegan.errors import NoiseganError

quick = reporting.quick


@quickly
def test_one_replicate_has_no_interval_and_says_so(tmp_path: Path) -> None:
    small(tmp_path, seeds=(7,))
    html, page = report_of(tmp_path)
    assert "One replicate only" in page.text
    assert "no intervals and no tests" in page.text
    scores = html[html.index('<table class="scores') : html.index("</table>")]
    assert "[" not in scores.partition("<tbody>")[2]
    assert "bands:" not in page.text


@quickly
def test_failed_runs_are_named_with_their_reason(tmp_path: Path) -> None:
    small(tmp_path, labels=("additive", "fuzzy", "both"), failed=((1, 1), (2, 1), (2, 2)), seeds=(1, 2))
    html, page = report_of(tmp_path)
    assert "3 of 6 runs failed" in page.text
    assert "fuzzy, seed 1: the loss is not a number after 3,200 images" in page.text
    assert "training seed 2" in page.text  # the first that most have finished
    assert "no run of both with this seed has finished" in page.text
    assert html.count("✗ failed") == 3


def test_all_runs_failed(tmp_path: Path) -> None:
    small(tmp_path, failed=((0, 1), (1, 1)), seeds=(1,))
    _, page = report_of(tmp_path)
    assert "2 of 2 runs failed" in page.text
    assert "No snapshot was scored on the way." in page.text
    assert page.of("img") == []


@quickly
def test_warnings_of_pairing_and_selection(tmp_path: Path) -> None:
    results = small(tmp_path, seeds=(1, 2))
    assert 'class="warnings"' not in write_report(tmp_path).read_text()
    results["pairing"] |= {"paired": False, "problems": ["seed 2: another order of images"]}
    results["experiment"]["selection"] = "best"
    results["config"]["differing"]["lr"] = {"additive": 0.002, "fuzzy": 0.001}
    synthetic_results.save(tmp_path, results)
    _, page = report_of(tmp_path)
    assert "The runs are not paired" in page.text
    assert "seed 2: another order of images" in page.text
    assert "they are too good" in page.text
    assert "Options differ that the experiment does not allow to differ" in page.text
    results["config"]["allowed"] = ["lr"]
    synthetic_results.save(tmp_path, results)
    _, page = report_of(tmp_path)
    assert "differ only in noise and in what the experiment lets differ: lr." in page.text


@quickly
def test_no_noise_at_all(tmp_path: Path) -> None:
    results = small(tmp_path, labels=("a", "b"), noises=("none", "none"), seeds=(1, 2))
    _, page = report_of(tmp_path)
    assert "No variant put noise into feature maps" in page.text
    assert results["runs"][0]["noise_std"] == 0
    assert "mean 0;" in page.text


@quickly
def test_variant_without_noise_beside_one_with_gaps(tmp_path: Path) -> None:
    results = small(tmp_path, labels=("a", "b"), noises=("none", "fuzzy"), seeds=(1, 2))
    strength = results["runs"][2]["noise"]["strength"]
    strength["b4.conv1/fuzzy"][3] = None
    strength["b8.conv0/fuzzy"] = [None] * 20
    synthetic_results.save(tmp_path, results)
    _, page = report_of(tmp_path)
    assert page.text.count("No noise in the feature maps") == 1
    assert (tmp_path / "report" / "figures" / "noise-v1-b.svg").is_file()


@quickly
def test_missing_arrays_are_said_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    results = small(tmp_path, seeds=(1, 2))
    file = tmp_path / results["runs"][0]["files"]["samples"]
    file.unlink()
    _, page = report_of(tmp_path)
    assert "no run of additive with this seed has finished, or its files are gone" in page.text
    for content in (
        b"",
        b"not numpy",
        npy(np.zeros((2, 3), np.uint8)),
        npy(np.zeros((2, 1, 8, 8))),
        npy(np.array([{}])),
    ):
        file.write_bytes(content)
        with pytest.raises(NoiseganError, match=r"samples\.npy is damaged: .*run `noisegan compare` again"):
            write_report(tmp_path)


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@quickly
def test_metric_without_errors_curves_or_times(tmp_path: Path) -> None:
    results = small(tmp_path, seeds=(1, 2))
    for run in results["runs"]:
        run["curve"] = []
        for score in run["scores"].values():
            score["std_error"] = None
    results["timing"] = {"finished": None, "runs": []}
    synthetic_results.save(tmp_path, results)
    _, page = report_of(tmp_path)
    assert "±" not in page.text.replace("± is the metric", "")
    assert "No snapshot was scored" in page.text


@quickly
def test_a_comparison_of_one(tmp_path: Path) -> None:
    small(tmp_path, labels=("additive",), seeds=(1, 2))
    _, page = report_of(tmp_path)
    assert "1 variant × 2 replicates" in page.text


def test_no_results_or_half_of_them(tmp_path: Path) -> None:
    with pytest.raises(
        NoiseganError, match=r"there is no results\.json in .*: give the folder of a finished comparison"
    ):
        write_report(tmp_path)
    for content in (b'{"schema": "noise', b"\xff\xfe\x00"):
        (tmp_path / "results.json").write_bytes(content)
        with pytest.raises(NoiseganError, match="is damaged, it is no JSON; run `noisegan compare` again"):
            write_report(tmp_path)


@quickly
def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    small(tmp_path, seeds=(1,))
    (tmp_path / "report").write_text("")
    with pytest.raises(NoiseganError, match=r"cannot write .*report"):
        write_report(tmp_path)
