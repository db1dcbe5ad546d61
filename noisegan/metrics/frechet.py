"""`fd`: the Fréchet distance between Gaussians fitted to the features of real and generated images.

FD = |μ₁ - μ₂|² + tr(S₁ + S₂ - 2 (S₁ S₂)^½)  (Dowson & Landau 1982; Heusel et al. 2017, equation 6)

No matrix root is taken. Let S₁ = F₁ᵀ F₁ and S₂ = F₂ᵀ F₂ for any factors F. S₁ S₂ has, up to zeros, the eigenvalues of
(F₁ F₂ᵀ)(F₁ F₂ᵀ)ᵀ, so that tr (S₁ S₂)^½ is the sum of the singular values of F₁ F₂ᵀ. That is real and non-negative
whatever the rank, and no covariance is formed, which would square the condition number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from noisegan.api import FeaturePair, Metric, Score, hookimpl
from noisegan.errors import NoiseganError

MINIMUM = (
    2  # an unbiased covariance exists; its rank n - 1 may stay below dim: the value is then biased upwards, not wrong
)


def frechet_distance(pair: FeaturePair) -> Score:
    """FD with unbiased covariances (n - 1), in float64.

    Rounding is below 1e-12 of tr(S₁ + S₂), whatever the order of the images. FD falls as images are added, as its bias
    shrinks like 1 / n (Chong & Forsyth 2020), so values compare at equal numbers of images only.

    Raises:
        NoiseganError: for fewer than two images of a kind, or features that are not finite.
    """
    if min(len(pair.real), len(pair.fake)) < MINIMUM:
        raise NoiseganError(
            f"FD needs at least {MINIMUM} real and {MINIMUM} generated images and got {len(pair.real)} and "
            f"{len(pair.fake)}; give more of them"
        )
    real_mean, real_factor = mean_and_factor(pair.real)
    fake_mean, fake_factor = mean_and_factor(pair.fake)
    means = (real_mean - fake_mean).square().sum()
    traces = real_factor.square().sum() + fake_factor.square().sum()
    if not torch.isfinite(means + traces):
        raise NoiseganError("FD of features that are not finite; look at the images and the feature extractor")
    cross = torch.linalg.svdvals(real_factor @ fake_factor.T).sum()  # tr (S₁ S₂)^½
    return Score(value=max((means + traces - 2 * cross).item(), 0.0))  # equal sets: rounding may fall below zero


def mean_and_factor(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [dim] and a factor F [min(n, dim), dim] of the unbiased covariance Fᵀ F of features [n, dim], in float64.

    With few images F is the centred data itself, at no cost. With more images than dimensions it is the triangle of
    their QR decomposition, so that the singular values that follow cost dim³ and not n³.
    """
    x = features.double()  # [n, dim]
    mean = x.mean(dim=0)  # [dim]
    x = (x - mean) / (len(x) - 1) ** 0.5
    if len(x) > x.shape[1]:
        x = torch.linalg.qr(x, mode="r").R  # [dim, dim]
    return mean, x


@hookimpl
def register_metrics(register: Callable[[str, Metric], None]) -> None:
    register(
        "fd",
        Metric(
            title="FD",
            better="lower",
            compute=frechet_distance,
            minimum=MINIMUM,
            reference="Heusel et al. 2017 (arXiv:1706.08500), equation 6; Dowson & Landau 1982",
        ),
    )
