"""The latents of an inversion: where they start, how they are perturbed, and how they become ws.

w    one w for all layers, [N, D]
w+   one per layer, [N, num_ws, D]: more freedom, and images that the generator would never make
z    the input of the mapping network, kept at the length sqrt(z_dim) that the mapping gives it anyway
pti  w, then the generator is tuned around it (`noisegan.inversion.tuning`)
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from noisegan.core.generator import Generator
from noisegan.core.rng import Streams
from noisegan.core.sampling import class_label
from noisegan.errors import NoiseganError

SPACES = ("w", "w+", "z", "pti")
SAMPLES = 10_000
"""Latents from which mean and scale of w are taken (Karras et al. 2020, appendix D)."""
_BATCH = 1000


@dataclass(frozen=True)
class WStatistics:
    """Where w lies.

    mean: mu_w = E f(z), [D].
    scale: sigma_w with sigma_w^2 = E |f(z) - mu_w|^2, a number. It is the distance of a w from the mean, not the spread
        of one coordinate, which is sqrt(D) times smaller.
    z: the latent whose w is nearest to the mean, [z_dim].
    """

    mean: Tensor
    scale: float
    z: Tensor


@torch.no_grad()
def w_statistics(G: Generator, *, seed: int = 0, class_index: int | None = None) -> WStatistics:
    """Mean and scale of w over 10,000 latents, of one class or, without one, of classes drawn evenly."""
    device, dtype = G.mapping.w_avg.device, G.mapping.w_avg.dtype
    stream = Streams(seed)["inversion/w_statistics"]
    zs, parts = [], []
    for first in range(0, SAMPLES, _BATCH):
        source = stream.source(ids=range(first, min(first + _BATCH, SAMPLES)), device=device)
        z = source.normal(G.z_dim).to(dtype)
        labels = source.integers(max(G.c_dim, 1))
        if G.c_dim == 0 or class_index is not None:
            c = class_label(G, class_index, len(z))
        else:
            c = F.one_hot(labels, G.c_dim).to(dtype)
        zs.append(z)
        parts.append(G.mapping(z, c))
    w = torch.cat(parts).double()  # [S, D]
    mean = w.mean(dim=0)
    distance2 = (w - mean).square().sum(dim=1)  # [S]
    nearest = torch.cat(zs)[int(distance2.argmin())]
    return WStatistics(mean.to(dtype), float(distance2.mean().sqrt()), nearest)


def check_class(G: Generator, spaces: Collection[str], class_index: int | None) -> None:
    """Raises:
    NoiseganError: for a class that the network does not have, or none where the space z needs one.
    """
    if class_index is not None or "z" in spaces:
        class_label(G, class_index, 1)


class Latents:
    """The latents of a batch.

    Args:
        G: the network.
        space: one of `SPACES`.
        n: images.
        statistics: of w.
        start: w to start from, [N, D], instead of the mean.
        class_index: of a conditional network; needed for z.

    Attributes:
        leaf: what is optimised.
        scale: sigma of the perturbation's law, in the units of the space.

    Raises:
        NoiseganError: for z of a conditional network without a class, or z with a start in w.
    """

    def __init__(
        self,
        G: Generator,
        space: str,
        n: int,
        statistics: WStatistics,
        *,
        start: Tensor | None = None,
        class_index: int | None = None,
    ) -> None:
        self._G, self._space = G, space
        self._c: Tensor | None = None
        if space == "z":
            if start is not None:
                raise NoiseganError("an encoder starts in w: choose --space w, w+ or pti with it, or leave it out")
            self._c = class_label(G, class_index, n)
            value, self.scale = statistics.z.expand(n, -1), math.sqrt(G.z_dim)
        else:
            value = statistics.mean.expand(n, -1) if start is None else start.to(statistics.mean)
            if space == "w+":
                value = value[:, None].expand(-1, G.num_ws, -1)
            self.scale = statistics.scale
        self.leaf = value.detach().clone().requires_grad_()
        self.settle()

    def ws(self, perturbation: Tensor | None = None) -> Tensor:
        """[N, num_ws, D]; the perturbation has the shape of `leaf`."""
        value = self.leaf if perturbation is None else self.leaf + perturbation
        if self._space == "z":
            value = self._G.mapping(value, self._c)
        return value if self._space == "w+" else value[:, None].expand(-1, self._G.num_ws, -1)

    @torch.no_grad()
    def settle(self) -> None:
        """After each step: z is put back to its length, of which the mapping network keeps nothing."""
        if self._space == "z":
            self.leaf.mul_(self.scale / torch.linalg.vector_norm(self.leaf, dim=1, keepdim=True).clamp_min(1e-12))
