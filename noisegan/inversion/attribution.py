"""Was an image made by this network? From how well the network can show it again (Karras et al. 2020, section 5.1).

Images of the network itself are found again by inversion, others are not: the distance that is left tells them apart.
It does so by as much as the ROC curve of known images says, real ones that the network was not trained on against its
own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri
from scipy.stats import beta, rankdata

from noisegan.errors import NoiseganError

LEVEL = 0.95
BINS = 20

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Roc:
    """A receiver operating characteristic: whoever has at most a threshold's distance is called generated.

    thresholds: all distances, rising, `-inf` in front.
    false_positives: share of real images called generated at each, [T].
    true_positives: share of generated images called generated, [T].
    """

    thresholds: Array
    false_positives: Array
    true_positives: Array


def roc_curve(generated: ArrayLike, real: ArrayLike) -> Roc:
    """The curve of distances of generated and of real images.

    Raises:
        NoiseganError: when either is empty or not finite.
    """
    x, y = _checked(generated, real)
    values = np.unique(np.concatenate([x, y]))
    return Roc(
        thresholds=np.concatenate([[-np.inf], values]),
        false_positives=np.concatenate([[0.0], np.searchsorted(np.sort(y), values, side="right") / len(y)]),
        true_positives=np.concatenate([[0.0], np.searchsorted(np.sort(x), values, side="right") / len(x)]),
    )


def area(generated: ArrayLike, real: ArrayLike) -> tuple[float, tuple[float, float] | None]:
    """The area under the curve, and its 95 % interval over images.

    The area is the chance that a generated image has a smaller distance than a real one, ties counting half. Its
    variance is that of DeLong et al. 1988, its interval is made on the logit scale, which keeps it within 0 and 1 (Qin
    & Hotilovac 2008). Where the two kinds are apart altogether, DeLong's variance is zero and says nothing: of the
    min(m, n) pairs that share no image all agree, so Clopper and Pearson's bound for that many trials holds. What is
    less than apart is no surer, so no lower end is above that bound, nor an upper end below its mirror image. With
    100 + 100 images, a true area of 0.995 and real distances three times as spread, DeLong's lower end alone was below
    the area 84 % of the time, where it promises 97.5 % (1,500 draws); with the bound it always was.

    Returns:
        area, interval; no interval with fewer than two images of a kind.

    Raises:
        NoiseganError: when either is empty or not finite.
    """
    x, y = _checked(generated, real)
    m, n = len(x), len(y)
    together = rankdata(np.concatenate([x, y]))
    # of each generated image the share of real ones that are farther away, and the reverse
    of_generated = 1 - (together[:m] - rankdata(x)) / n  # [m]
    of_real = (together[m:] - rankdata(y)) / m  # [n]
    found = float(of_generated.mean())
    if m < 2 or n < 2:
        return found, None
    tail = (1 - LEVEL) / 2
    variance = of_generated.var(ddof=1) / m + of_real.var(ddof=1) / n
    low = high = found
    if 0 < found < 1:  # variance 0: all distances are the same, and nothing is known
        half = float(ndtri(1 - tail)) * math.sqrt(variance) / (found * (1 - found)) if variance > 0 else math.inf
        low, high = float(expit(logit(found) - half)), float(expit(logit(found) + half))
    bound = tail ** (1 / min(m, n))
    return found, (min(low, bound), max(high, 1 - bound))


def real_p(distances: ArrayLike, real: ArrayLike) -> Array:
    """For each image the p value of `it is a real image like these`, [N].

    (1 + how many real images have a distance as small) / (1 + all): whatever the distribution, a real image drawn as
    these were gets a value of p or less with a chance of at most p (Vovk et al. 2005: a conformal p value).
    """
    known = np.sort(np.asarray(real, dtype=np.float64))
    found: Array = (1 + np.searchsorted(known, np.asarray(distances, np.float64), side="right")) / (1 + len(known))
    return found


def threshold(real: ArrayLike, false_positives: float) -> float:
    """The distance below which an image is called generated, so that of real ones at most this share is.

    An image is called generated if its `real_p` is at most `false_positives`, which is if its distance is below the
    k-th smallest of n real ones, k = floor(false_positives (n + 1)).

    Raises:
        NoiseganError: when there are too few real images to tell so small a share.
    """
    if not 0 < false_positives < 1:
        raise NoiseganError(f"--false-positives must be above 0 and below 1, not {false_positives}")
    known = np.sort(np.asarray(real, dtype=np.float64))
    k = math.floor(false_positives * (len(known) + 1) + 1e-9)
    if k < 1:
        raise NoiseganError(
            f"{len(known)} real images cannot tell a share of {false_positives:g} false positives: give "
            f"{math.ceil(1 / false_positives) - 1} or more with --images, or allow more with --false-positives"
        )
    return float(known[k - 1])


def share_interval(count: int, of: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share."""
    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, count, of - count + 1)) if count > 0 else 0.0
    high = float(beta.ppf(1 - tail, count + 1, of - count)) if count < of else 1.0
    return low, high


def separate(generated: Sequence[float], real: Sequence[float], *, false_positives: float = 0.05) -> dict[str, Any]:
    """Everything about known images, as plain data.

    Args:
        generated, real: distances.
        false_positives: share of real images that may be called generated.

    Returns:
        `auc` with `auc_interval`, `roc` (thresholds, shares), `histograms` over common bins, `threshold`, and how many
        generated images it finds: `true_positives` with `true_positives_interval`.

    Raises:
        NoiseganError: as `roc_curve` and `threshold`.
    """
    x, y = _checked(generated, real)
    curve, (found, interval) = roc_curve(x, y), area(x, y)
    limit = threshold(y, false_positives)
    hits = int((x < limit).sum())
    edges = np.histogram_bin_edges(np.concatenate([x, y]), BINS)
    return {
        "n_generated": len(x),
        "n_real": len(y),
        "auc": found,
        "auc_interval": None if interval is None else list(interval),
        "roc": {
            "threshold": curve.thresholds[1:].tolist(),
            "false_positives": curve.false_positives[1:].tolist(),
            "true_positives": curve.true_positives[1:].tolist(),
        },
        "histograms": {
            "edges": edges.tolist(),
            "generated": np.histogram(x, edges)[0].tolist(),
            "real": np.histogram(y, edges)[0].tolist(),
        },
        "false_positives_allowed": false_positives,
        "threshold": limit,
        "true_positives": hits / len(x),
        "true_positives_interval": list(share_interval(hits, len(x))),
    }


def _checked(generated: ArrayLike, real: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(generated, dtype=np.float64), np.asarray(real, dtype=np.float64)
    for name, values in (("generated", x), ("real", y)):
        if len(values) == 0 or not np.isfinite(values).all():
            raise NoiseganError(
                f"attribution needs finite distances of {name} images, one at least; got {values.tolist()}"
            )
    return x, y
