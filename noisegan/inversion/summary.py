"""What measures of single images come to: means with intervals, hard cases, effects of the factors, a table."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import rankdata

WORST = 0.1
"""Share of the images that are called hard: a decile."""
SUMMARISED = (
    "distance", "mse", "psnr", "ssim", "seconds", "fresh_distance", "lost_with_fresh_noise", "autocorrelation",
    "all_lags", "mutual_information",
)  # fmt: skip
LEVEL = 0.95
EXACT_IMAGES = 13
"""Up to here all 2^n sign flips of differences by image are made; beyond, `FLIPS` random ones."""
FLIPS = 9999


def worst_images(distances: Mapping[str, float]) -> set[str]:
    """The tenth of the images, one at least, with the largest distances; ties by name."""
    count = max(1, round(WORST * len(distances)))
    return set(sorted(distances, key=lambda name: (-distances[name], name))[:count])


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`n`, `mean`, `std`, `median` and Student's interval of the mean, for each measure that has values."""
    found = {}
    for name in SUMMARISED:
        values = np.array([row[name] for row in rows if row.get(name) is not None], dtype=np.float64)
        if len(values):
            mean, interval = mean_interval(values)
            found[name] = {
                "n": len(values),
                "mean": mean,
                "std": float(values.std(ddof=1)) if len(values) > 1 else None,
                "median": float(np.median(values)),
                "interval": interval,
            }
    return found


def mean_interval(values: NDArray[np.float64]) -> tuple[float, list[float] | None]:
    """Mean and Student's 95 % interval; None with fewer than two values."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, None
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * float(values.std(ddof=1)) / math.sqrt(n)
    return mean, [mean - half, mean + half]


def paired_tests(differences: NDArray[np.float64]) -> dict[str, float]:
    """Two-sided p values of paired differences by image [n]: `p_value` of their mean, `p_wilcoxon` of their ranks.

    Among all flips of their signs (Fisher 1935, section 21; Wilcoxon 1945, zeros dropped), or random ones of a fixed
    seed. Right for differences that are symmetric around zero; images are the units, so it is about these networks.
    """
    d = differences[differences != 0]
    return {"p_value": _sign_flip_p(differences), "p_wilcoxon": _sign_flip_p(np.sign(d) * rankdata(np.abs(d)))}


def _sign_flip_p(d: NDArray[np.float64]) -> float:
    limit = abs(d.sum()) - 1e-12 * np.abs(d).sum()  # equal but for rounding
    signs = _signs(len(d))
    return sum(int((np.abs(some @ d) >= limit).sum()) for some in np.array_split(signs, 64)) / len(signs)


@functools.lru_cache(maxsize=2)
def _signs(n: int) -> NDArray[np.int8]:
    """Flips of n numbers, the one that leaves them as they are in front: all, [2^n, n], or random, [1 + FLIPS, n]."""
    if n <= EXACT_IMAGES:
        flipped = np.arange(2**n)[:, None] >> np.arange(n) & 1
    else:  # the observed one counts (Phipson & Smyth 2010)
        flipped = np.random.default_rng(0).integers(2, size=(1 + FLIPS, n), dtype=np.int8)
        flipped[0] = 0
    signs: NDArray[np.int8] = (1 - 2 * flipped).astype(np.int8)
    return signs


def contrasts(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The effect of each factor with the other held: cells of the same images, paired by image, second minus first."""
    found = []
    for i, a in enumerate(cells):
        for b in cells[i + 1 :]:
            same = a["images"] == b["images"]
            if not same or (a["space"] == b["space"]) == (a["noise"] == b["noise"]):
                continue
            before = {row["image"]: row for row in a["images_measured"]}
            differences = np.array(
                [row["distance"] - before[row["image"]]["distance"] for row in b["images_measured"]], np.float64
            )
            mean, interval = mean_interval(differences)
            found.append(
                {
                    "images": a["images"],
                    "from": {"space": a["space"], "noise": a["noise"]},
                    "to": {"space": b["space"], "noise": b["noise"]},
                    "n": len(differences),
                    "mean_difference": mean,
                    "interval": interval,
                    **paired_tests(differences),
                    "closer": int((differences < 0).sum()),
                }
            )
    return found


def table(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The means of all cells, as lines of equal columns."""
    names = {
        "distance": "distance", "worst": "worst 10 %", "psnr": "PSNR", "ssim": "SSIM",
        "fresh_distance": "fresh noise", "autocorrelation": "autocorr.", "mutual_information": "MI (bits)",
        "seconds": "s/image",
    }  # fmt: skip
    lines = [["images", "space", "noise", *names.values()]]
    for cell in cells:
        every, worst = cell["summary"]["all"], cell["summary"]["worst_decile"]
        means = {name: part["mean"] for name, part in every.items()} | {"worst": worst["distance"]["mean"]}
        digits = {"psnr": ".2f", "seconds": ".2f", "ssim": ".3f", "mutual_information": ".3f", "autocorrelation": ".2f"}
        lines.append(
            [cell["images"], cell["space"], cell["noise"]]
            + [format(means[name], digits.get(name, ".4f")) if name in means else "-" for name in names]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in lines]
