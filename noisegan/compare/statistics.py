"""Which variants differ from the baseline: paired tests of scores, their intervals, and the verdict in words.

Runs of one training seed share data order, latents and initial weights, so a variant and the baseline are compared seed
by seed: everything is computed from the differences of the pairs, variant minus baseline.

The test is chosen by the numbers of pairs and variants alone, before any score is seen: exact sign flips where they
can reach significance at all (`choose_test`), else the paired t test, which relies on differences that are not far from
normal and cannot check it. Holm's step-down keeps the chance of any false claim about a metric at alpha or below; its
family is all variants of the experiment, those whose runs failed included. An interval is not corrected for their
number, so it may leave out zero where the verdict is `cannot tell`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.special import nctdtrinc, stdtr, stdtrit
from scipy.stats import bootstrap

from noisegan.errors import NoiseganError
from noisegan.paired import (
    EXACT_PAIRS,
    FLIPS,
    ROUNDING,
    Array,
    Interval,
    deviation,
    sign_flip_p,
    t_interval,
    wilcoxon_p,
)

RANK_PAIRS = 6
"""Wilcoxon's smallest p with five pairs is 1/16: nothing to inform anybody."""
BCA_PAIRS = 6
"""A nominal 95 % BCa interval of normal numbers covered 73, 80, 83 % with 3, 4, 5 pairs, and 87 % with 6 (1,500 draws
each; Student's 94 to 96 %): with fewer it would mislead."""
BCA_RESAMPLES = 9999
POWER = 0.8
"""Differences of this share of the scores are taken for zero."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A variant beside the baseline by one metric; the fields are those of docs/results.md, and `alpha`."""

    n: int
    mean_difference: float | None
    std_difference: float | None
    interval: Interval | None
    interval_method: Literal["t"] = "t"
    interval_bca: Interval | None = None
    p_value: float | None
    test: Literal["permutation", "t"] | None
    p_wilcoxon: float | None
    p_holm: float | None
    smallest_detectable: float | None
    verdict: Literal["better", "worse", "cannot tell"]
    alpha: float

    def as_dict(self) -> dict[str, Any]:
        """What results.json holds of it: lists for intervals, and no `alpha`, which the experiment holds."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        del plain["alpha"]
        return plain


def compare_scores(
    scores: Mapping[str, Sequence[float | None]],
    baseline: str,
    *,
    better: Literal["lower", "higher"],
    alpha: float = 0.05,
) -> dict[str, Comparison]:
    """Each variant beside the baseline, by one metric.

    Args:
        scores: label -> its scores, of all variants in the same order of training seeds; None where a run failed.
        baseline: label of the variant that the others are compared with.
        better: which direction is an improvement.
        alpha: the chance allowed of any false claim among all variants.

    Returns:
        label -> comparison, in the order of `scores`, the baseline left out.

    Raises:
        NoiseganError: for an unknown baseline, alpha outside of (0, 1), different numbers of scores, or one that is
            not finite.
    """
    if not 0 < alpha < 1:
        raise NoiseganError(f"alpha = {alpha} is no level of significance; choose one between 0 and 1, such as 0.05")
    if baseline not in scores:
        raise NoiseganError(f"the baseline {baseline!r} has no scores; the variants are {', '.join(scores)}")
    for label, values in scores.items():
        if len(values) != len(scores[baseline]):
            raise NoiseganError(
                f"{label!r} has {len(values)} scores and the baseline {baseline!r} has {len(scores[baseline])}; "
                "list one per training seed, and None for a failed run"
            )
        for i, value in enumerate(values):
            if value is not None and not math.isfinite(value):
                raise NoiseganError(
                    f"score {i + 1} of {label!r} is {value}; scores are finite, or None for a failed run"
                )
    differences = {
        label: paired_differences(values, scores[baseline]) for label, values in scores.items() if label != baseline
    }
    decided = decide(differences, better=better, alpha=alpha)
    return {label: replace(c, interval_bca=bca_interval(differences[label], alpha)) for label, c in decided.items()}


def paired_differences(variant: Sequence[float | None], baseline: Sequence[float | None]) -> Array:
    """Variant minus baseline of the pairs that have both, [n].

    What differs by rounding is made equal: differences that are zero but for rounding are zero, and differences that
    are the same but for rounding are the same.
    """
    pairs = [(a, b) for a, b in zip(variant, baseline, strict=True) if a is not None and b is not None]
    x = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    d: Array = x[:, 0] - x[:, 1]
    rounding = ROUNDING * np.abs(x).max(initial=0)
    d[np.abs(d) <= rounding] = 0
    if len(d) and np.ptp(d) <= rounding:
        d[:] = d[0]
    return d


def decide(
    differences: Mapping[str, Array], *, better: Literal["lower", "higher"], alpha: float
) -> dict[str, Comparison]:
    """All of `compare_scores` but the bootstrap, which decides nothing, from paired differences [n] of each variant.

    Differences that are all zero are no evidence: p = 1, interval [0, 0]. Differences that are all the same but not
    zero have no spread from which t or an interval could be computed: their test is the sign flips whatever n, so that
    p = 2 / 2^n, which two or three such pairs cannot make significant. That replaces a t test that would always reject,
    so it cannot add false claims. Neither kind says what difference could be detected.
    """
    m = len(differences)
    found: dict[str, Comparison] = {}
    for label, d in differences.items():
        n = len(d)
        mean, spread = float(d.mean()) if n else None, deviation(d)
        constant = n >= 2 and spread == 0
        test, p_value = None, None
        if n >= 2:
            test = "permutation" if constant else choose_test(n, m, alpha)
            p_value = sign_flip_p(d) if test == "permutation" else t_test_p(d)
        found[label] = Comparison(
            n=n,
            mean_difference=mean,
            std_difference=spread,
            interval=None if constant and mean else t_interval(d, alpha),
            p_value=p_value,
            test=test,
            p_wilcoxon=wilcoxon_p(d) if n >= RANK_PAIRS else None,
            p_holm=None,
            smallest_detectable=smallest_detectable(spread, n, m, alpha) if spread else None,
            verdict="cannot tell",
            alpha=alpha,
        )
    corrected = holm([c.p_value for c in found.values()])
    return {
        label: replace(c, p_holm=p, verdict=_verdict(p, c.mean_difference, better, alpha))
        for (label, c), p in zip(found.items(), corrected, strict=True)
    }


def choose_test(n: int, m: int, alpha: float) -> Literal["permutation", "t"]:
    """Sign flips if n pairs can make any of m variants significant after Holm's correction, else t."""
    return "permutation" if m * _smallest_p(n) <= alpha else "t"


def t_test_p(d: Array) -> float:
    """Two-sided p of the paired t test of differences [n] that are not all the same."""
    t = d.mean() / (d.std(ddof=1) / math.sqrt(len(d)))
    return float(2 * stdtr(len(d) - 1, -abs(t)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Holm 1979). None, a comparison without a test, counts in the family and stays."""
    m = len(p_values)
    corrected: list[float | None] = [None] * m
    largest = 0.0
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (m - rank) * p))
        corrected[i] = largest
    return corrected


def bca_interval(d: Array, alpha: float) -> Interval | None:
    """The bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), of a fixed seed.

    None with fewer than `BCA_PAIRS` differences, or when all are the same.
    """
    if len(d) < BCA_PAIRS or deviation(d) == 0:
        return None
    found = bootstrap(
        (d,),
        np.mean,
        confidence_level=1 - alpha,
        method="BCa",
        n_resamples=BCA_RESAMPLES,
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def smallest_detectable(std: float, n: int, m: int, alpha: float) -> float:
    """The true mean difference that is found with a power of 80 % if differences have this standard deviation.

    From the noncentral t distribution at the Bonferroni level alpha / m: the level of Holm's first step, which a lone
    difference has to pass. Sign flips attain only multiples of their smallest p; their level is the largest of them
    below, and with six to eight normal differences their power comes out at 70 to 79 % (measured), above that at 80 %.
    """
    level = alpha / m
    if choose_test(n, m, alpha) == "permutation":
        level = _smallest_p(n) * math.floor(level / _smallest_p(n))
    return _noncentrality(n, level) * std / math.sqrt(n)


def summarise_scores(values: Sequence[float | None], alpha: float) -> dict[str, Any]:
    """`n`, `mean`, `std` (n - 1) and `interval` (Student's) of one variant's scores; None where there are too few.

    Scores of failed runs, None, are left out.
    """
    x = np.array([value for value in values if value is not None], dtype=np.float64)
    interval = t_interval(x, alpha)
    return {
        "n": len(x),
        "mean": float(x.mean()) if len(x) else None,
        "std": deviation(x),
        "interval": list(interval) if interval else None,
    }


def sentence(comparison: Comparison, variant: str, baseline: str, metric_title: str) -> str:
    """The verdict of one comparison in words, with its figures."""
    c = comparison
    if c.mean_difference is None:
        return f"cannot tell: no training seed has a finished run of both {variant} and {baseline}"
    difference = f"the difference of {metric_title}, {variant} minus {baseline}, is {_figure(c.mean_difference)}"
    if c.p_value is None or c.p_holm is None:
        return f"cannot tell: one replicate gives no interval; {difference} in it; train three or more"
    if c.std_difference == 0 and c.mean_difference == 0:
        return f"cannot tell: {metric_title} of {variant} and {baseline} is the same in all {c.n} pairs"
    told = c.verdict != "cannot tell"
    notes = [_p_figure(c.p_holm) + (" after Holm" if c.p_holm > c.p_value else ""), f"{c.n} pairs"]
    if c.interval is not None:
        low, high = c.interval if not told or c.mean_difference > 0 else (-c.interval[1], -c.interval[0])
        notes.insert(0, f"{100 * (1 - c.alpha):g} % interval {_figure(low)} to {_figure(high)}")
    figures = f"({', '.join(notes)})"
    if told:
        return f"{variant} is {c.verdict} than {baseline}: {metric_title} {_by(c.mean_difference)} {figures}"
    budget = ""
    if c.smallest_detectable is not None:
        budget = f"; this budget would find a difference of {_figure(c.smallest_detectable)} or more"
    return f"cannot tell: {difference} {figures}{budget}"


def verdict(comparisons: Sequence[Mapping[str, Any]], metric_title: str, *, replicates: int) -> str:
    """One sentence over all comparisons of a metric, given as results.json holds them, of so many training seeds."""
    if not comparisons:
        return "Nothing to compare: the baseline is the only variant"
    baseline = comparisons[0]["baseline"]
    if all(c["n"] < 2 for c in comparisons):
        why = "one replicate gives no interval; train three or more"
        if replicates > 1:
            why = f"too many runs failed: of {replicates} replicates fewer than two are whole"
        return f"By {metric_title} this budget can tell nothing: {why}"
    parts = []
    for word in ("better", "worse"):
        told = [c for c in comparisons if c["verdict"] == word]
        told.sort(key=lambda c: -abs(c["mean_difference"]))
        if told:
            names = _listed([f"{c['variant']} ({_by(c['mean_difference'])})" for c in told])
            parts.append(f"{names} {'is' if len(told) == 1 else 'are'} {word} than {baseline}")
    untold = [c for c in comparisons if c["verdict"] == "cannot tell"]
    if untold:
        parts.append(f"this budget cannot tell {_listed([c['variant'] for c in untold])} from {baseline}")
        detectable = [c["smallest_detectable"] for c in untold if c["smallest_detectable"] is not None]
        if detectable:
            parts.append(f"it would find a difference of {_figure(max(detectable))} or more")
    return f"By {metric_title} {'; '.join(parts)}"


def _verdict(
    p_holm: float | None, mean: float | None, better: Literal["lower", "higher"], alpha: float
) -> Literal["better", "worse", "cannot tell"]:
    if p_holm is None or mean is None or p_holm > alpha:
        return "cannot tell"
    return "better" if (mean < 0) == (better == "lower") else "worse"


def _smallest_p(n: int) -> float:
    """The smallest two-sided p that sign flips of n pairs can give."""
    return 2 / 2**n if n <= EXACT_PAIRS else 1 / (FLIPS + 1)


@functools.lru_cache
def _noncentrality(n: int, level: float) -> float:
    """mean √n / std of n differences at which a two-sided t test of this level has its power: P(T < critical) is
    1 - power. The chance of significance on the wrong side, below 1e-4, is left out."""
    return float(nctdtrinc(n - 1, 1 - POWER, stdtrit(n - 1, 1 - level / 2)))


def _by(difference: float) -> str:
    return f"{'lower' if difference < 0 else 'higher'} by {_figure(abs(difference))}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _figure(x: float) -> str:
    """Three significant digits, without an exponent where that reads well."""
    if x != 0 and not 1e-4 <= abs(x) < 1e6:
        return f"{x:.2e}"
    return np.format_float_positional(x, precision=3, unique=False, fractional=False, trim="-")


def _p_figure(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"
