"""What measures of single images come to: means with intervals, hard cases, effects of the factors, a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noisegan.paired import sign_flip_p, t_interval, wilcoxon_p

WORST = 0.1
"""Share of the images that are called hard: a decile."""
SUMMARISED = (
    "distance", "mse", "psnr", "ssim", "seconds", "fresh_distance", "lost_with_fresh_noise", "autocorrelation",
    "all_lags", "mutual_information",
)  # fmt: skip
LEVEL = 0.95


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
    interval = t_interval(values, 1 - LEVEL)
    return float(values.mean()), None if interval is None else list(interval)


def paired_tests(differences: NDArray[np.float64]) -> dict[str, float]:
    """Two-sided p values of paired differences by image [n]: `p_value` of their mean, `p_wilcoxon` of their ranks.

    Images are the units, so they are about these networks.
    """
    return {"p_value": sign_flip_p(differences), "p_wilcoxon": wilcoxon_p(differences)}


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
