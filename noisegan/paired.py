"""Tests and intervals of paired differences, whatever the pairs are: training seeds or images."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import rankdata

Array = NDArray[np.float64]
Interval = tuple[float, float]

EXACT_PAIRS = 16
"""Up to here all 2^n sign flips are made; beyond, `FLIPS` random ones."""
FLIPS = 2**16 - 1
ROUNDING = 1e-12
_PARTS = 64
"""Flips are multiplied part by part: those of a thousand pairs at once would take half a gigabyte."""


def sign_flip_p(d: Array) -> float:
    """Two-sided p of the mean of d [n] among all its sign flips (Fisher 1935, section 21).

    Exact for differences that are symmetric around zero, as they are when variant and baseline have the same
    distribution. With more than `EXACT_PAIRS`, random flips of a fixed seed and the observed one among them
    (Phipson & Smyth 2010).
    """
    limit = abs(d.sum()) - ROUNDING * np.abs(d).sum()
    as_far = sum(int((np.abs(some @ d) >= limit).sum()) for some in np.array_split(_signs(len(d)), _PARTS))
    return as_far / 2 ** len(d) if len(d) <= EXACT_PAIRS else (as_far + 1) / (FLIPS + 1)


def wilcoxon_p(d: Array) -> float:
    """Two-sided p of the signed ranks (Wilcoxon 1945), zeros dropped: the sign flips of the ranks, exact with ties."""
    d = d[d != 0]
    return sign_flip_p(np.sign(d) * rankdata(np.abs(d)))


def t_interval(values: Array, alpha: float) -> Interval | None:
    """Student's interval of the mean of values [n] at level 1 - alpha; None with fewer than two."""
    spread = deviation(values)
    if spread is None:
        return None
    n, mean = len(values), float(values.mean())
    half = float(stdtrit(n - 1, 1 - alpha / 2)) * spread / math.sqrt(n)
    return mean - half, mean + half


def deviation(values: Array) -> float | None:
    """Standard deviation (n - 1), exactly zero where all values are the same; None with fewer than two."""
    if len(values) < 2:
        return None
    return float(values.std(ddof=1)) if np.ptp(values) > 0 else 0.0


@functools.lru_cache(maxsize=2)
def _signs(n: int) -> NDArray[np.int8]:
    """Signs of the flips of n numbers: all, [2^n, n], or random ones, [FLIPS, n]."""
    if n <= EXACT_PAIRS:
        bits = np.arange(2**n)[:, None] >> np.arange(n) & 1
    else:
        bits = np.random.default_rng(0).integers(2, size=(FLIPS, n), dtype=np.int8)
    signs: NDArray[np.int8] = (1 - 2 * bits).astype(np.int8)
    return signs
