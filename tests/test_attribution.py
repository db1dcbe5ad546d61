"""Attribution: known answers on made-up distances, laws of the intervals and of the decision, the command."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from noisegan.errors import NoiseganError
from noisegan.inversion.attribution import area, real_p, roc_curve, separate, share_interval, threshold


def test_the_curve_has_known_points() -> None:
    curve = roc_curve([1, 2, 4], [2, 3])
    assert curve.thresholds.tolist() == [-math.inf, 1, 2, 3, 4]
    assert curve.true_positives.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1])
    assert curve.false_positives.tolist() == [0, 0, 0.5, 1, 1]


def plain_area(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:  # type: ignore[type-arg]
    """Area and variance from the paper (DeLong et al. 1988, eqs. 1 to 4), pair by pair."""
    kernel = np.array([[1.0 if a < b else 0.5 if a == b else 0.0 for b in y] for a in x])
    v10, v01 = kernel.mean(axis=1), kernel.mean(axis=0)
    theta = kernel.mean()
    s10 = ((v10 - theta) ** 2).sum() / (len(x) - 1)
    s01 = ((v01 - theta) ** 2).sum() / (len(y) - 1)
    return float(theta), float(s10 / len(x) + s01 / len(y))


def test_the_area_is_delongs_with_ties_and_equals_the_trapezoids() -> None:
    rng = np.random.default_rng(0)
    x, y = np.round(rng.normal(0, 1, 23), 1), np.round(rng.normal(0.8, 1, 17), 1)
    found, interval = area(x, y)
    theta, variance = plain_area(x, y)
    assert found == pytest.approx(theta)
    assert interval is not None
    half = 1.959964 * math.sqrt(variance) / (theta * (1 - theta))
    expected = [1 / (1 + math.exp(-(math.log(theta / (1 - theta)) + s * half))) for s in (-1, 1)]
    assert interval == pytest.approx(expected, rel=1e-6)
    curve = roc_curve(x, y)
    assert np.trapezoid(curve.true_positives, curve.false_positives) == pytest.approx(theta)
    assert (np.diff(curve.true_positives) >= 0).all()
    swapped, _ = area(y, x)
    assert swapped == pytest.approx(1 - theta)


def test_the_interval_covers_what_it_says() -> None:
    """True area of normals apart by d: Phi(d / sqrt(2)) = 0.8555 for 1.5."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(600):
        _, interval = area(rng.normal(0, 1, 30), rng.normal(1.5, 1, 30))
        assert interval is not None
        inside += interval[0] <= 0.855516 <= interval[1]
    assert 0.92 < inside / 600 < 0.985


def test_complete_separation_is_no_certainty() -> None:
    found, interval = area([1.0, 2.0, 2.5], [3.0, 4.0, 5.0, 6.0])
    assert found == 1
    assert interval == pytest.approx((0.025 ** (1 / 3), 1.0))
    found, interval = area([3.0, 4.0, 5.0, 6.0], [1.0, 2.0, 2.5])
    assert found == 0
    assert interval == pytest.approx((0.0, 1 - 0.025 ** (1 / 3)))
    assert area([1.0], [2.0]) == (1.0, None)


def test_less_than_apart_is_no_surer() -> None:
    """One generated image passes one real image after the other, then a second one does; and the mirror image."""
    real, generated = np.arange(100.0), np.full(100, -1.0)
    intervals = []
    for i in range(2):
        for passed in range(100):
            generated[i] = passed - 0.5
            found, interval = area(generated, real)
            mirrored, other = area(-generated, -real)
            assert interval is not None
            assert other is not None
            assert (mirrored, other) == (pytest.approx(1 - found), pytest.approx((1 - interval[1], 1 - interval[0])))
            assert interval[0] < found <= interval[1]
            intervals.append(interval)
    assert intervals[0] == pytest.approx((0.025 ** (1 / 100), 1.0))
    low, high = np.array(intervals).T
    assert (np.diff(low[:100]) <= 1e-12).all()
    assert (np.diff(high[:100]) <= 1e-12).all()
    assert low[1:].max() == low[0]


def test_the_interval_covers_areas_near_one() -> None:
    """Normals, the real ones three times as spread: DeLong's lower end alone covers 84 % (n = 100, area 0.995)."""
    rng = np.random.default_rng(4)
    shift = 2.575829 * math.sqrt(10)  # Phi^-1(0.995)
    inside = []
    for _ in range(600):
        _, interval = area(rng.normal(0, 1, 100), rng.normal(shift, 3, 100))
        assert interval is not None
        inside.append(interval[0] <= 0.995 <= interval[1])
    assert np.mean(inside) > 0.94


def test_what_cannot_be_told_apart_has_an_area_of_a_half() -> None:
    found, interval = area([1.0, 1.0], [1.0, 1.0])
    assert found == 0.5
    assert interval is not None
    assert interval[0] < 0.5 < interval[1]


def test_a_real_image_is_called_generated_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(2)
    called = []
    for _ in range(3000):
        known, new = rng.gamma(2, 1, 39), rng.gamma(2, 1)
        decision = new < threshold(known, 0.05)
        assert decision == (real_p([new], known)[0] <= 0.05)
        called.append(decision)
    assert np.mean(called) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 3000))


def test_shares_have_known_intervals() -> None:
    assert share_interval(0, 10) == pytest.approx((0, 1 - 0.025**0.1))
    assert share_interval(10, 10) == pytest.approx((0.025**0.1, 1))
    assert share_interval(5, 10) == pytest.approx((0.187086, 0.812914), abs=1e-6)  # Clopper & Pearson's table


def test_everything_together() -> None:
    rng = np.random.default_rng(3)
    generated, real = rng.normal(1, 0.1, 50).tolist(), rng.normal(1.3, 0.1, 60).tolist()
    found = separate(generated, real)
    assert found["auc"] > 0.95
    assert sum(found["histograms"]["generated"]) == 50
    assert sum(found["histograms"]["real"]) == 60
    assert found["threshold"] == sorted(real)[2]  # floor(0.05 x 61) = 3
    assert found["true_positives"] == np.mean(np.array(generated) < found["threshold"])
    json.dumps(found, allow_nan=False)


def test_mistakes_get_one_sentence() -> None:
    with pytest.raises(NoiseganError) as caught:
        threshold([1.0] * 18, 0.05)
    assert str(caught.value) == (
        "18 real images cannot tell a share of 0.05 false positives: give 19 or more with --images, or allow more with "
        "--false-positives"
    )
    threshold([1.0] * 19, 0.05)
    with pytest.raises(NoiseganError, match=r"--false-positives must be above 0 and below 1, not 1\.5"):
        threshold([1.0], 1.5)
    with pytest.raises(NoiseganError, match="attribution needs finite distances of generated images, one at least"):
        roc_curve([], [1.0])
    with pytest.raises(NoiseganError, match="attribution needs finite distances of real images, one at least"):
        area([1.0], [math.nan])
