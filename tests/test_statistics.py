"""Statistics of a comparison: each method by closed forms and other implementations, and all of them together."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from scoring import BASE, SCORES, compare

from noisegan import paired
from noisegan.compare.statistics import (
    bca_interval,
    choose_test,
    compare_scores,
    holm,
    paired_differences,
    smallest_detectable,
    t_test_p,
)
from noisegan.errors import NoiseganError
from noisegan.paired import sign_flip_p, t_interval, wilcoxon_p


def random(seed: int, n: int) -> Any:
    return np.random.default_rng(seed).normal(size=n) + 0.4


# --- each method ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_t_test_and_interval_are_students(n: int) -> None:
    d = random(n, n)
    assert t_test_p(d) == pytest.approx(scipy.stats.ttest_1samp(d, 0).pvalue, rel=1e-10)
    expected = scipy.stats.t.interval(0.9, n - 1, d.mean(), d.std(ddof=1) / math.sqrt(n))
    assert t_interval(d, alpha=0.1) == pytest.approx(expected, rel=1e-10)


def test_the_interval_of_a_hand_example() -> None:
    """Differences 1, 2, 3: mean 2, std 1, and t_0.975 with two degrees of freedom is 4.3027."""
    low, high = t_interval(np.array([1.0, 2.0, 3.0]), alpha=0.05) or (0, 0)
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), rel=1e-6)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    intervals = np.array([t_interval(rng.normal(3, 2, size=4), alpha=0.1) for _ in range(2000)])
    covered = ((intervals[:, 0] <= 3) & (intervals[:, 1] >= 3)).mean()
    assert abs(covered - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 2000)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_sign_flips_are_a_loop_over_all_signs(n: int) -> None:
    d = random(n, n).round(1)
    sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=n)]
    assert sign_flip_p(d) == sum(s >= abs(d.sum()) - 1e-9 for s in sums) / 2**n
    assert sign_flip_p(-d) == sign_flip_p(7 * d) == sign_flip_p(d)


def test_sign_flips_count_ties_in_spite_of_rounding() -> None:
    assert sign_flip_p(np.array([0.1, 0.2, -0.3, 0.3])) == sign_flip_p(np.array([1.0, 2, -3, 3])) == 12 / 16
    assert sign_flip_p(np.array([5.0] * 6)) == 2 / 64
    assert sign_flip_p(np.zeros(4)) == 1


def test_random_sign_flips_agree_with_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    d = random(0, 12)
    exact = sign_flip_p(d)
    assert 0.01 < exact < 0.5
    paired._signs.cache_clear()
    monkeypatch.setattr(paired, "EXACT_PAIRS", 11)
    assert sign_flip_p(d) == pytest.approx(exact, abs=4 * math.sqrt(exact / paired.FLIPS))
    assert sign_flip_p(d) == sign_flip_p(d)
    assert sign_flip_p(np.full(40, 3.0)) == 1 / (paired.FLIPS + 1)  # the observed one is among them
    paired._signs.cache_clear()


def test_wilcoxon_is_scipys_and_drops_zeros() -> None:
    d = random(2, 9)
    assert wilcoxon_p(d) == pytest.approx(scipy.stats.wilcoxon(d, method="exact").pvalue, rel=1e-12)
    assert wilcoxon_p(np.append(d, 0)) == wilcoxon_p(d)
    assert wilcoxon_p(np.zeros(6)) == 1


def test_holm_by_hand() -> None:
    """Sorted: 0.01 x 4 = 0.04; 0.02 x 3 = 0.06; 0.022 x 2 = 0.044, not below its forerunner's 0.06; 0.3 x 1."""
    assert holm([0.022, 0.3, 0.01, 0.02]) == pytest.approx([0.06, 0.3, 0.04, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.01, None, 0.04]) == [0.03, None, 0.08]  # the family keeps its size
    assert holm([]) == []


def test_the_test_is_chosen_by_numbers_alone() -> None:
    assert [choose_test(n, 1, 0.05) for n in (2, 5, 6, 20)] == ["t", "t", "permutation", "permutation"]
    assert [choose_test(n, 3, 0.05) for n in (6, 7)] == ["t", "permutation"]
    assert choose_test(6, 1, 2 / 64) == "permutation"
    assert choose_test(30, 1, 1e-5) == "t"  # random flips cannot get there


def test_the_bootstrap_interval_is_fixed_and_close_to_students_for_many_pairs() -> None:
    d = random(3, 80)
    found = bca_interval(d, 0.05)
    assert found == bca_interval(d, 0.05)
    student = t_interval(d, 0.05)
    assert found is not None
    assert student is not None
    assert found == pytest.approx(student, abs=0.1 * (student[1] - student[0]))
    assert bca_interval(d[:5], 0.05) is None
    assert bca_interval(d[:6], 0.05) is not None
    assert bca_interval(np.ones(8), 0.05) is None


def test_the_bootstrap_interval_leans_towards_the_long_tail() -> None:
    d = np.exp(random(4, 30))
    low, high = bca_interval(d, 0.05) or (0, 0)
    assert high - d.mean() > 1.1 * (d.mean() - low)


def test_rounding_is_no_difference() -> None:
    assert paired_differences([0.1 + 0.2, 5.0], [0.3, 5.0]).tolist() == [0, 0]
    assert np.ptp(paired_differences([0.1, 0.4, 1.3], [0.0, 0.3, 1.2])) == 0
    assert paired_differences([1.0, None, 3.0, None], [0.5, 2.0, None, None]).tolist() == [0.5]


# --- a comparison -----------------------------------------------------------------------------------------------------


def test_a_comparison_holds_what_its_methods_give() -> None:
    found = compare_scores(SCORES, "none", better="lower")
    assert list(found) == ["fuzzy", "additive"]
    d = np.array(SCORES["fuzzy"]) - np.array(BASE)
    c = found["fuzzy"]
    assert (c.n, c.test, c.interval_method, c.verdict) == (4, "t", "t", "better")
    assert c.mean_difference == pytest.approx(d.mean())
    assert c.std_difference == pytest.approx(d.std(ddof=1))
    assert c.interval == t_interval(d, 0.05)
    assert c.p_value == t_test_p(d)
    assert c.p_holm == 2 * t_test_p(d)
    assert (c.p_wilcoxon, c.interval_bca) == (None, None)
    assert c.smallest_detectable == smallest_detectable(d.std(ddof=1), 4, 2, 0.05)
    assert found["additive"].verdict == "cannot tell"


def test_a_comparison_is_plain_data_of_the_documented_keys() -> None:
    plain = compare([1.0, 2.0, 3.0, 2.5, 1.5, 2.2]).as_dict()
    assert list(plain) == [
        "n",
        "mean_difference",
        "std_difference",
        "interval",
        "interval_method",
        "interval_bca",
        "p_value",
        "test",
        "p_wilcoxon",
        "p_holm",
        "smallest_detectable",
        "verdict",
    ]
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["test"] == "permutation"
    assert plain["p_value"] == plain["p_wilcoxon"] == 2 / 64
    assert len(plain["interval_bca"]) == 2


def test_which_direction_is_better() -> None:
    assert compare([-5.0, -5.1, -4.9], better="lower").verdict == "better"
    assert compare([-5.0, -5.1, -4.9], better="higher").verdict == "worse"
    assert compare([5.0, 5.1, 4.9], better="lower").verdict == "worse"
    assert compare([5.0, 5.1, 4.9], better="higher").verdict == "better"


def test_shared_effects_of_seeds_cancel() -> None:
    luck = [0.0, 100.0, -300.0, 50.0]
    moved = {label: [v + s for v, s in zip(values, luck, strict=True)] for label, values in SCORES.items()}
    for a, b in zip(
        compare_scores(SCORES, "none", better="lower").values(),
        compare_scores(moved, "none", better="lower").values(),
        strict=True,
    ):
        assert b.p_holm == pytest.approx(a.p_holm)


def test_equal_runs_are_no_evidence() -> None:
    found = compare_scores({"none": BASE, "same": BASE}, "none", better="lower")["same"]
    assert (found.p_value, found.p_holm, found.interval, found.verdict) == (1, 1, (0, 0), "cannot tell")
    assert (found.mean_difference, found.std_difference, found.smallest_detectable) == (0, 0, None)
    assert found.test == "permutation"


@pytest.mark.parametrize("n", range(2, 9))
def test_the_same_difference_in_each_pair_is_as_sure_as_its_signs(n: int) -> None:
    found = compare([-0.1] * n)
    assert found.p_value == 2 / 2**n
    assert (found.interval, found.interval_bca, found.smallest_detectable) == (None, None, None)
    assert found.verdict == ("better" if n >= 6 else "cannot tell")


def test_one_pair_or_none_gives_nothing_but_its_difference() -> None:
    scores = {"none": [1.0, 2.0], "one": [4.0, None], "no": [None, None], "two": [2.0, 2.5]}
    found = compare_scores(scores, "none", better="lower")
    for label, n, mean in (("one", 1, 3.0), ("no", 0, None)):
        c = found[label]
        assert (c.n, c.mean_difference, c.verdict) == (n, mean, "cannot tell")
        rest = [c.std_difference, c.interval, c.interval_bca, c.p_value, c.test, c.p_wilcoxon, c.p_holm]
        assert [*rest, c.smallest_detectable] == [None] * 8
    p = found["two"].p_value
    assert p is not None
    assert found["two"].p_holm == min(3 * p, 1)


def test_failed_runs_take_their_pair_with_them() -> None:
    scores = {"none": [*BASE, None], "fuzzy": [30.0, None, 30.5, 29.0, 31.0]}
    c = compare_scores(scores, "none", better="lower")["fuzzy"]
    expected = compare_scores({"none": [40.0, 39, 41], "fuzzy": [30.0, 30.5, 29]}, "none", better="lower")["fuzzy"]
    assert c == expected


def test_mistakes_are_told() -> None:
    with pytest.raises(NoiseganError, match="baseline 'nil' has no scores; the variants are none, fuzzy, additive"):
        compare_scores(SCORES, "nil", better="lower")
    for alpha in (0, 1, -0.1, math.nan):
        with pytest.raises(NoiseganError, match="no level of significance; choose one between 0 and 1, such as"):
            compare_scores(SCORES, "none", better="lower", alpha=alpha)
    with pytest.raises(NoiseganError, match="'fuzzy' has 1 scores and the baseline 'none' has 4; list one per"):
        compare_scores({"none": BASE, "fuzzy": [1.0]}, "none", better="lower")
    for value in (math.nan, math.inf):
        with pytest.raises(NoiseganError, match=f"score 2 of 'fuzzy' is {value}; scores are finite, or None"):
            compare_scores({"none": [1.0, 2.0], "fuzzy": [1.0, value]}, "none", better="lower")


def test_a_comparison_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        compare([1.0, 2.0]).n = 3  # type: ignore[misc]
