"""`precision`, `recall`, `density`, `coverage`: how far each set of images lies within the other's neighbourhoods.

The neighbourhood of an image is the closed ball around it that reaches its k-th nearest neighbour in its own set,
itself left out; a duplicate counts as a neighbour at distance zero.

precision: the share of generated images in some real neighbourhood; recall: the share of real images in some generated
neighbourhood (Kynkäänniemi et al. 2019, equations 1 and 2, k = 3). density: the number of real neighbourhoods around a
generated image, over k, on average; coverage: the share of real neighbourhoods that hold a generated image (Naeem et
al. 2020, equations 3 and 4, k = 5).

Squared distances are |a|² + |b|² - 2 a·b in float64, block by block, of features centred at the real mean: summing
the squared differences of 50,000 x 50,000 pairs would take hours. Rounding is below 1e-14 (|a|² + |b|²), and what lies
outside a ball by less than `TIE` (|a|² + |b|²) is counted inside. So ties and duplicates do not depend on the order of
the images; the price is that images closer than a millionth of their norm are taken for equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from noisegan.api import FeaturePair, Metric, Score, hookimpl
from noisegan.errors import NoiseganError

K_PRECISION = 3  # Kynkäänniemi et al. 2019
K_DENSITY = 5  # Naeem et al. 2020
MINIMUM = K_DENSITY + 1  # the k-th neighbour of each image must exist; the four are computed together
BLOCK = 2000  # rows; a block of distances takes 32 MB
TIE = 1e-12


@dataclass(frozen=True)
class Neighbourhoods:
    """The four shares; each in [0, 1], but for `density`, whose mean is about one for equal distributions."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(pair: FeaturePair) -> Neighbourhoods:
    """All four from one pass over the distances of each pair of sets.

    Raises:
        NoiseganError: for fewer than six images of a kind, or features that are not finite.
    """
    n, m = len(pair.real), len(pair.fake)
    if min(n, m) < MINIMUM:
        raise NoiseganError(
            f"precision, recall, density and coverage need at least {MINIMUM} real and {MINIMUM} generated images and "
            f"got {n} and {m}; give more of them"
        )
    center = pair.real.double().mean(dim=0)  # [dim]
    real, fake = pair.real.double() - center, pair.fake.double() - center  # [n, dim], [m, dim]
    if not (real.isfinite().all() and fake.isfinite().all()):
        raise NoiseganError(
            "precision, recall, density and coverage of features that are not finite; "
            "look at the images and the feature extractor"
        )
    real_radii, fake_radii = _squared_radii(real), _squared_radii(fake)  # [n, K_DENSITY], [m, K_DENSITY]

    fake_within = torch.zeros(m, dtype=torch.bool)  # some real ball of precision
    real_within = torch.zeros(n, dtype=torch.bool)  # some generated ball of recall
    covered = torch.zeros(n, dtype=torch.bool)  # its ball of coverage holds a generated image
    inside = 0  # pairs of a generated image and a real ball of density around it
    for i in range(0, n, BLOCK):
        for j in range(0, m, BLOCK):
            rows, columns = slice(i, i + BLOCK), slice(j, j + BLOCK)
            d = _squared_distances(real[rows], fake[columns], slack=TIE)  # [BLOCK, BLOCK], real x generated
            fake_within[columns] |= (d <= real_radii[rows, None, K_PRECISION - 1]).any(dim=0)
            real_within[rows] |= (d <= fake_radii[None, columns, K_PRECISION - 1]).any(dim=1)
            dense = d <= real_radii[rows, None, K_DENSITY - 1]
            covered[rows] |= dense.any(dim=1)
            inside += int(dense.sum())
    return Neighbourhoods(
        precision=int(fake_within.sum()) / m,
        recall=int(real_within.sum()) / n,
        density=inside / (K_DENSITY * m),
        coverage=int(covered.sum()) / n,
    )


def _squared_radii(x: Tensor) -> Tensor:
    """Squared distances of each row of x [n, dim] to its nearest others, nearest first, [n, K_DENSITY]."""
    radii = []
    for i in range(0, len(x), BLOCK):
        block = x[i : i + BLOCK]
        nearest = x.new_full((len(block), K_DENSITY), torch.inf)
        for j in range(0, len(x), BLOCK):
            d = _squared_distances(block, x[j : j + BLOCK], slack=0)  # [BLOCK, BLOCK]
            if i == j:
                d.fill_diagonal_(torch.inf)  # itself, by its index and not by its distance
            nearest = torch.cat((nearest, d), dim=1).topk(K_DENSITY, largest=False, sorted=True).values
        radii.append(nearest)
    return torch.cat(radii)


def _squared_distances(a: Tensor, b: Tensor, slack: float) -> Tensor:
    """|a - b|² less slack (|a|² + |b|²), of all rows of a [n, dim] and b [m, dim], [n, m]."""
    norms = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)  # [n, m]
    return norms * (1 - slack) - 2 * (a @ b.T)


@hookimpl
def register_metrics(register: Callable[[str, Metric], None]) -> None:
    kynkaanniemi = "Kynkäänniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2, k = 3"
    naeem = "Naeem et al. 2020 (arXiv:2002.09797), equations 3 and 4, k = 5"
    for name, reference in (
        ("precision", kynkaanniemi),
        ("recall", kynkaanniemi),
        ("density", naeem),
        ("coverage", naeem),
    ):
        register(
            name,
            Metric(
                title=name.capitalize(),
                better="higher",
                compute=_score_of(name),
                minimum=MINIMUM,
                reference=reference,
            ),
        )


def _score_of(name: str) -> Callable[[FeaturePair], Score]:
    return lambda pair: Score(value=getattr(pair.once(neighbourhoods), name))
