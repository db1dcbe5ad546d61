"""Parts of the report: numbers as people read them, looks of lines, and pictures that hold samples pixel by pixel."""

# ruff: noqa: RUF001 (the page's own minus signs and dashes)

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import reporting
from PIL import Image
from reporting import quickly, report_of, small

from noisegan.compare.report import figures, grids, numbers
from noisegan.compare.report.results import load_array, read_results

quick = reporting.quick


@quickly
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_hold_the_samples_pixel_by_pixel(tmp_path: Path, channels: int) -> None:
    small(tmp_path, channels=channels, resolution=24, seeds=(1,))
    report_of(tmp_path)
    run = read_results(tmp_path / "results.json").runs[0]
    samples = load_array(tmp_path, run, "samples", 4)
    assert samples is not None
    slug = run.files["samples"].split("/")[1].removesuffix("-seed1")
    picture = np.asarray(Image.open(tmp_path / "report" / "figures" / f"samples-{slug}.png"))
    for i in range(4):  # a row of four, each enlarged three times
        tile = picture[:, i * 74 : i * 74 + 72]
        assert (tile == tile[::3, ::3].repeat(3, 0).repeat(3, 1)).all()
        expected = samples[i].astype(float)  # [C, R, R]
        if channels == 4:
            expected = expected[:3] * expected[3:] / 255 + 255 - expected[3:]
        assert np.abs(tile[::3, ::3, :3].transpose(2, 0, 1) - expected).max() <= 0.5


@pytest.mark.parametrize(
    ("uncertainties", "values", "decimals"),
    [([0.66], [40.0], 2), ([1.2, 0.3], [], 2), ([12.0], [], 0), ([340.0], [], 0), ([9.1e-5], [], 6), ([1e-30], [], 8),
     ([0.0, None], [41.234], 2), ([], [0.0042], 6), ([], [], 2), ([float("inf")], [1.0], 3)],
)  # fmt: skip
def test_decimals_follow_the_uncertainty(uncertainties: list[float | None], values: list[float], decimals: int) -> None:
    assert numbers.decimals_for(uncertainties, values) == decimals


def test_numbers_as_people_read_them() -> None:
    assert numbers.fixed(-1234.5678, 2) == "−1,234.57"
    assert numbers.fixed(-0.001, 2, sign=True) == "0.00"
    assert numbers.fixed(0.5, 1, sign=True) == "+0.5"
    assert numbers.fixed(None, 1) == numbers.fixed(float("nan"), 1) == "–"
    assert numbers.interval_text((-1.0, 2.0), 1, sign=True) == "[−1.0, +2.0]"
    assert [numbers.p_text(p) for p in (0.0004, 0.0312, 1.0, None)] == ["< 0.001", "0.031", "1.000", "–"]
    assert [numbers.significant(x) for x in (0.0, 0.012345, 123.4, 2e-9)] == ["0", "0.0123", "123", "2.00e−9"]
    assert [numbers.percent(p) for p in (0.95, 1 - 0.05, 0.999)] == ["95 %", "95 %", "99.9 %"]
    assert [numbers.duration(s) for s in (0.25, 48.2, 200, 7500, None)] == [
        "0.25 s", "48 s", "3 min 20 s", "2 h 05 min", "–"
    ]  # fmt: skip


def test_rounding_keeps_two_digits_of_any_uncertainty() -> None:
    for u in 10 ** np.random.default_rng(0).uniform(-6, 3, 200):
        shown = float(numbers.fixed(u, numbers.decimals_for([u])).replace(",", ""))
        assert abs(shown - u) <= 0.05 * u


def test_seven_looks_differ_in_colour_and_more_in_dashes() -> None:
    looks = figures.looks([str(i) for i in range(20)])
    assert len({look.color for look in looks[:7]}) == 7
    assert all(a.dashes != b.dashes for a, b in itertools.pairwise(looks))
    assert len({(look.color, look.dashes) for look in looks}) == 20


def test_maps_share_one_scale() -> None:
    weak, strong = np.full((1, 2, 2), 0.1), np.full((1, 2, 2), 0.4)
    assert grids.common_top([weak, strong]) == 0.4
    assert grids.common_top([0 * weak]) == grids.common_top([]) == 1
    assert (grids.std_to_rgba(weak, 0.4) == grids.std_to_rgba(2 * weak, 0.8)).all()
    assert (grids.std_to_rgba(weak, 0.4) != grids.std_to_rgba(strong, 0.4)).any()


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (4, 4), (7, 4), (9, 3), (16, 4), (25, 5), (64, 4)])
def test_columns(n: int, columns: int) -> None:
    assert grids.columns_for(n) == columns


@pytest.mark.parametrize(("resolution", "side"), [(8, 72), (28, 56), (72, 72), (256, 256), (512, 256), (1024, 256)])
def test_images_are_scaled_by_whole_numbers(resolution: int, side: int) -> None:
    tiles = grids.rgba(np.zeros((3, 1, resolution, resolution), np.uint8))
    assert grids.png_size(grids.grid_png(tiles, 2)) == (2 * side + grids.GAP, 2 * side + grids.GAP)
