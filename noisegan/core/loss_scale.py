"""The loss scale of float16 training, kept on the device so that nobody waits to know it."""

from __future__ import annotations

import torch
from torch import Tensor

START = 2.0**16
GROWS_AFTER = 2000
"""Moves of an optimiser without overflow after which the scale doubles (as torch.amp.GradScaler does)."""


class LossScale:
    """The factor on losses that keeps float16 gradients in range (Micikevicius et al. 2018, section 3.2).

    It halves where a gradient overflowed and doubles after a while without. Both tensors change in place.
    """

    def __init__(self, device: torch.device) -> None:
        self.factor = torch.full((), START, device=device)
        self.moves = torch.zeros((), device=device)

    def tensors(self) -> dict[str, Tensor]:
        """What a snapshot keeps."""
        return {"factor": self.factor, "moves": self.moves}

    def update(self, *, moved: Tensor, overflown: Tensor) -> None:
        """After a phase, once its gradients have been divided by the factor; two booleans on the device. Neither: the
        scale stays as it is."""
        self.moves.add_(moved).masked_fill_(overflown, 0)
        grown = self.moves >= GROWS_AFTER
        self.factor.mul_(1 + grown.float() - 0.5 * overflown.float())
        self.moves.masked_fill_(grown, 0)
