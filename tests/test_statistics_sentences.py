"""What a comparison says of its statistics: summaries, a sentence for each variant, the verdict of an experiment."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scoring import BASE, SCORES, compare

from noisegan.compare import statistics
from noisegan.compare.statistics import compare_scores, sentence, summarise_scores, verdict


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
