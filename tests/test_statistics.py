"""Statistics of a comparison: closed forms, other implementations, and simulated experiments whose truth is known."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats

from noisegan import paired
from noisegan.compare import statistics
from noisegan.compare.statistics import (
    Comparison,
    bca_interval,
    choose_test,
    compare_scores,
    decide,
    holm,
    paired_differences,
    sentence,
    smallest_detectable,
    summarise_scores,
    t_test_p,
    verdict,
)
from noisegan.errors import NoiseganError
from noisegan.paired import sign_flip_p, t_interval, wilcoxon_p

BASE = [40.0, 42.0, 39.0, 41.0]
SCORES = {"none": BASE, "fuzzy": [30.0, 31.0, 30.5, 29.0], "additive": [41.0, 40.5, 39.5, 43.0]}


def random(seed: int, n: int) -> Any:
    return np.random.default_rng(seed).normal(size=n) + 0.4


def compare(difference: list[float], **options: Any) -> Comparison:
    """One variant beside a baseline of this difference to it."""
    base = [float(i % 3) for i in range(len(difference))]
    scores = {"none": base, "it": [b + d for b, d in zip(base, difference, strict=True)]}
    return compare_scores(scores, "none", better=options.pop("better", "lower"), **options)["it"]


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


# --- simulated experiments --------------------------------------------------------------------------------------------


def normal(rng: np.random.Generator, n: int) -> Any:
    return rng.normal(size=n)


def skewed(rng: np.random.Generator, n: int) -> Any:
    return rng.lognormal(size=n) - math.exp(0.5)


def false_claims(noise: Callable[[np.random.Generator, int], Any], repeats: int) -> float:
    """Share of A/A experiments, 3 to 8 seeds and 1 to 3 variants, in which any variant is told from the baseline."""
    rng = np.random.default_rng(5)
    outcomes = []
    for n, m in itertools.product(range(3, 9), (1, 2, 3)):
        for _ in range(repeats):
            luck, base = 5 * noise(rng, n), noise(rng, n)
            differences = {f"v{i}": (luck + noise(rng, n)) - (luck + base) for i in range(m)}
            decided = decide(differences, better="lower", alpha=0.05).values()
            outcomes.append(any(c.verdict != "cannot tell" for c in decided))
    return float(np.mean(outcomes))


def upper_bound(repeats: int) -> float:
    """The rate that 1 of 1,000 honest procedures of level 0.05 would exceed."""
    return float(scipy.stats.binom.ppf(0.999, 18 * repeats, 0.05)) / (18 * repeats)


@pytest.mark.parametrize("noise", [normal, skewed])
def test_false_claims_are_as_rare_as_promised(noise: Callable[[np.random.Generator, int], Any]) -> None:
    """2,000 experiments each. Variant and baseline have one distribution here, so differences of skewed scores are
    symmetric: the sign flips are exact, and t errs on the safe side."""
    assert false_claims(noise, 112) <= upper_bound(112)


def test_without_holm_false_claims_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "holm", list)
    monkeypatch.setattr(statistics, "choose_test", lambda n, m, alpha: "t")
    assert false_claims(normal, 112) > upper_bound(112)


def test_skewed_differences_with_mean_zero_fool_the_t_test_within_bounds() -> None:
    """Tolerated, as five pairs cannot show it: a variant with other scores than the baseline, rarely far off, and yet
    the same mean. About 12 % instead of 5 %; that the variant differs is then true, only not in its mean."""
    rng = np.random.default_rng(6)
    claims = [decide({"v": rng.exponential(size=5) - 1}, better="lower", alpha=0.05)["v"] for _ in range(1000)]
    assert 0.06 < np.mean([c.verdict != "cannot tell" for c in claims]) < 0.16


def power(effect: float, n: int, m: int, repeats: int = 600) -> float:
    """How often the first of m variants is found better, when its mean differs by `effect` standard deviations."""
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(repeats):
        differences = {f"v{i}": rng.normal(size=n) - (effect if i == 0 else 0) for i in range(m)}
        found += decide(differences, better="lower", alpha=0.05)["v0"].verdict == "better"
    return found / repeats


def test_power_rises_with_the_effect_and_with_pairs() -> None:
    by_effect = [power(effect, 5, 1) for effect in (0.0, 0.7, 1.4, 2.8)]
    by_pairs = [power(1.5, n, 1) for n in (3, 5, 8)]
    for rising in (by_effect, by_pairs):
        assert all(b > a + 0.1 for a, b in itertools.pairwise(rising))
    assert by_effect[-1] > 0.95


@pytest.mark.parametrize(("n", "m"), [(2, 1), (3, 1), (4, 2), (5, 3), (10, 1), (10, 3)])
def test_the_smallest_detectable_difference_is_found_four_times_out_of_five(n: int, m: int) -> None:
    assert power(smallest_detectable(1.0, n, m, 0.05), n, m) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(("n", "m"), [(6, 1), (7, 3), (8, 2)])
def test_few_sign_flips_lose_a_little_power(n: int, m: int) -> None:
    assert 0.65 < power(smallest_detectable(1.0, n, m, 0.05), n, m) < 0.8


def test_the_smallest_detectable_difference_of_many_pairs_is_that_of_the_normal_distribution() -> None:
    expected = (scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)) * 3 / math.sqrt(2000)
    assert smallest_detectable(3.0, 2000, 1, 0.05) == pytest.approx(expected, rel=2e-3)


# --- summaries and sentences ------------------------------------------------------------------------------------------


def test_summaries() -> None:
    assert summarise_scores([1.0, None, 3.0], 0.05) == {
        "n": 2,
        "mean": 2.0,
        "std": pytest.approx(math.sqrt(2)),
        "interval": pytest.approx([2 - 12.7062, 2 + 12.7062], rel=1e-5),
    }
    assert summarise_scores([5.0], 0.05) == {"n": 1, "mean": 5.0, "std": None, "interval": None}
    assert summarise_scores([None], 0.05) == {"n": 0, "mean": None, "std": None, "interval": None}
    assert summarise_scores([0.1, 0.1, 0.1], 0.05)["interval"] == pytest.approx([0.1, 0.1])


def said(label: str, **options: Any) -> str:
    return sentence(compare_scores(SCORES, "none", better="lower", **options)[label], label, "none", "FD")


def test_sentences() -> None:
    assert said("fuzzy") == (
        "fuzzy is better than none: FD lower by 10.4 (95 % interval 8 to 12.8, p = 0.0016 after Holm, 4 pairs)"
    )
    assert said("additive", alpha=0.1) == (
        "cannot tell: the difference of FD, additive minus none, is 0.5 (90 % interval -1.23 to 2.23, p = 0.55, "
        "4 pairs); this budget would find a difference of 3.13 or more"
    )
    up = compare([2.0, 2.1, 1.9, 2.05])
    assert sentence(up, "it", "none", "KID").startswith("it is worse than none: KID higher by 2.01 (95 % interval 1.88")
    assert "p < 0.001, 4 pairs" in sentence(up, "it", "none", "KID")
    assert (
        sentence(compare([0.0] * 4), "it", "none", "FD") == "cannot tell: FD of it and none is the same in all 4 pairs"
    )
    assert sentence(compare([3.0] * 4), "it", "none", "FD") == (
        "cannot tell: the difference of FD, it minus none, is 3 (p = 0.12, 4 pairs)"
    )
    assert sentence(compare([3.1]), "it", "none", "FD") == (
        "cannot tell: one replicate gives no interval; the difference of FD, it minus none, is 3.1 in it; "
        "train three or more"
    )
    assert sentence(compare([]), "it", "none", "FD") == (
        "cannot tell: no training seed has a finished run of both it and none"
    )


@pytest.mark.parametrize(
    ("x", "figure"),
    [(12.345, "12.3"), (-8.0, "-8"), (0.0, "0"), (12345.6, "12300"), (0.0012345, "0.00123"), (1.5e-5, "1.50e-05")],
)
def test_figures(x: float, figure: str) -> None:
    assert statistics._figure(x) == figure


def entries(scores: dict[str, list[float | None]], **options: Any) -> list[dict[str, Any]]:
    found = compare_scores(scores, "none", better="lower", **options)
    return [{"variant": label, "baseline": "none"} | c.as_dict() for label, c in found.items()]


def test_the_verdict_of_an_experiment() -> None:
    scores: dict[str, list[float | None]] = {
        **SCORES,
        "bad": [50.0, 52.5, 49.2, 51.0],
        "best": [20.0, 22.3, 19.5, 20.5],
    }
    assert verdict(entries(scores), "FD", replicates=4) == (
        "By FD best (lower by 19.9) and fuzzy (lower by 10.4) are better than none; "
        "bad (higher by 10.2) is worse than none; this budget cannot tell additive from none; "
        "it would find a difference of 5.07 or more"
    )
    assert verdict(entries({"none": BASE, "additive": SCORES["additive"]}), "FD", replicates=4) == (
        "By FD this budget cannot tell additive from none; it would find a difference of 3.13 or more"
    )
    assert (
        verdict(entries({"none": BASE, "same": BASE}), "FD", replicates=4)
        == "By FD this budget cannot tell same from none"
    )
    assert verdict(entries({"none": [1.0], "a": [2.0], "b": [None]}), "FD", replicates=1) == (
        "By FD this budget can tell nothing: one replicate gives no interval; train three or more"
    )
    assert "too many runs failed" in verdict(entries({"none": [1.0], "a": [2.0]}), "FD", replicates=3)
    assert verdict([], "FD", replicates=4) == "Nothing to compare: the baseline is the only variant"


def test_a_comparison_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        compare([1.0, 2.0]).n = 3  # type: ignore[misc]
