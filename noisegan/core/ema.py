"""The exponential moving average of the generator, the network that makes the images."""

from __future__ import annotations

import torch
from torch import nn


def ema_decay(batch: int, nimg: int, half_life_nimg: float, rampup: float | None) -> float:
    """Decay of one step.

    Args:
        batch: images per step.
        nimg: images shown before this step.
        half_life_nimg: images after which a weight's share in the average has halved.
        rampup: early on the half-life is `rampup * nimg` images if that is shorter; None: no ramp-up.
    """
    if rampup is not None:
        half_life_nimg = min(half_life_nimg, nimg * rampup)
    return float(0.5 ** (batch / max(half_life_nimg, 1e-8)))


def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move parameters towards the network's and copy buffers, which are no weights: only progress and w_avg."""
    with torch.no_grad():
        means, parameters = zip(*zip(average.parameters(), network.parameters(), strict=True), strict=True)
        torch._foreach_lerp_(means, parameters, 1 - decay)
        for copy, buffer in zip(average.buffers(), network.buffers(), strict=True):
            copy.copy_(buffer)
