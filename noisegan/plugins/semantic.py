"""The semantic map of fuzzy reparameterization: where in an image noise is strong, told from the features themselves.

Feng, Zhao, Zha, "Understanding Noise Injection in GANs", ICML 2021, geometric realisation:

    mu~   = sum over channels of m                              [N, 1, H, W]
    s     = (mu~ - mean mu~) / max |mu~ - mean mu~|              per sample, in [-1, 1]
    s_d   = A * s + b                                           A, b learned, elementwise
    s'    = alpha s_d + (1 - alpha) 1
    sigma = s' / ||s'||_2                                       norm over H x W, per sample

`fuzzy` multiplies plain noise by it, `geodesic(sigma=from-features)` noise on a manifold.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FLAT = 0.01
"""Least spread that s is divided by, as a share of one plus the map's size: on a flatter map s fades to 0 with bounded
gradients instead of blowing rounding errors up to full size (bfloat16 rounds by up to 0.004)."""
_TINY = 1e-8
"""Keeps the norm of s' from zero."""


def semantic_map(x: Tensor, scale: Tensor, shift: Tensor, alpha: Tensor) -> Tensor:
    """sigma of unit norm per sample, in float32 at least: H W squares overflow float16.

    Args:
        x: features m, [N, C, H, W].
        scale, shift: A and b, [H, W].
        alpha: share of the feature-dependent map, [].

    Returns:
        [N, 1, H, W]; entries are about 1 / sqrt(H W).
    """
    mu = x.sum(dim=1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))  # [N, 1, H, W]
    s = mu - mu.mean(dim=(2, 3), keepdim=True)
    size = s * s.detach().sign()  # |s|; for the second derivative of abs() torch imports its compiler, two seconds
    peak = size.amax(dim=(2, 3), keepdim=True)  # [N, 1, 1, 1]
    floor = _FLAT * (1 + mu.detach().abs().amax(dim=(2, 3), keepdim=True))
    s = s / torch.maximum(peak, floor)
    s = alpha * (scale * s + shift) + (1 - alpha)
    return s / torch.sqrt(s.square().sum(dim=(2, 3), keepdim=True) + _TINY**2)
