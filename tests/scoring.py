"""Scores of a few seeds, and one variant beside a baseline: what the tests of statistics share."""

from __future__ import annotations

from typing import Any

from noisegan.compare.statistics import Comparison, compare_scores

BASE = [40.0, 42.0, 39.0, 41.0]
SCORES = {"none": BASE, "fuzzy": [30.0, 31.0, 30.5, 29.0], "additive": [41.0, 40.5, 39.5, 43.0]}


def compare(difference: list[float], **options: Any) -> Comparison:
    """One variant beside a baseline of this difference to it."""
    base = [float(i % 3) for i in range(len(difference))]
    scores = {"none": base, "it": [b + d for b, d in zip(base, difference, strict=True)]}
    return compare_scores(scores, "none", better=options.pop("better", "lower"), **options)["it"]
