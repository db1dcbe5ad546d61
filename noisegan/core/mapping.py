"""The mapping network, z -> w (Karras et al. 2019, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noisegan.core.layers import FullyConnected
from noisegan.errors import NoiseganError

W_AVG_DECAY = 0.995
"""Decay per step of the running mean of w (Karras et al. 2019, released configuration)."""


class MappingNetwork(nn.Module):
    """z, normalised to unit second moment, and an embedded class label through leaky-ReLU layers.

    Args:
        z_dim: size of z; 0 makes w depend on the label alone (the discriminator's label network).
        c_dim: number of classes, 0 without labels.
        w_dim: size of w and of every hidden layer.
        layers: number of layers.
        lr_multiplier: learning rate of these layers relative to the rest.
        average: keep the running mean of w, `w_avg`.
    """

    def __init__(
        self, *, z_dim: int, c_dim: int, w_dim: int, layers: int = 8, lr_multiplier: float = 0.01, average: bool = True
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_layers = z_dim, c_dim, w_dim, layers
        if c_dim > 0:
            self.embed = FullyConnected(c_dim, w_dim)
        sizes = [z_dim + (w_dim if c_dim > 0 else 0)] + [w_dim] * layers
        for i in range(layers):
            layer = FullyConnected(sizes[i], sizes[i + 1], act="lrelu", lr_multiplier=lr_multiplier)
            self.add_module(f"fc{i}", layer)
        self.w_avg: Tensor
        if average:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor | None, c: Tensor | None = None) -> Tensor:
        """z [N, z_dim], c [N, c_dim] one-hot -> w [N, w_dim].

        Raises:
            NoiseganError: when z or c is missing or of another size.
        """
        dtype = self.get_parameter("fc0.weight").dtype
        parts = []
        if self.z_dim > 0:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                raise NoiseganError(f"z must have shape [N, {self.z_dim}], got {None if z is None else list(z.shape)}")
            parts.append(_normalise(z.to(dtype)))
        if self.c_dim > 0:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                got = "nothing" if c is None else str(list(c.shape))
                raise NoiseganError(f"this network needs class labels c of shape [N, {self.c_dim}], got {got}")
            parts.append(_normalise(self.embed(c.to(dtype))))
        x = torch.cat(parts, dim=1)
        for i in range(self.num_layers):
            x = self.get_submodule(f"fc{i}")(x)
        return x

    def track(self, w_mean: Tensor) -> None:
        """Move the running mean of w, used by truncation, towards the mean of a batch, [w_dim]."""
        self.w_avg.lerp_(w_mean.detach().to(self.w_avg.dtype), 1 - W_AVG_DECAY)


def _normalise(x: Tensor) -> Tensor:
    """Unit second moment per sample, [N, D] -> [N, D]."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)
