"""What an inversion makes small: perceptual distances and the squared error of pixels, each with its weight.

    loss = make_loss("st-lpips-alex", device)                  # or "lpips-vgg=1,mse=0.1"
    target = loss.prepare(targets)                             # features of the targets, computed once
    values = loss(images, target)                              # {"st-lpips-alex": [N]}
    total = loss.total(values)                                 # [N]

Every distance sees RGB: grey images with their channel repeated, RGBA images twice, laid over black and over white (the
mean of both counts), so that alpha matters and the colour of what cannot be seen does not. Perceptual networks see
images above 256 px averaged down to 256 (Karras et al. 2020, appendix D), and below 32 px enlarged to 32, bilinearly,
as they have nothing left to see otherwise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisegan.errors import NoiseganError, near_match
from noisegan.inversion.lpips import BACKBONES, load_lpips
from noisegan.metrics.extractors.st_lpips import load_st_lpips, unit

LARGEST, LEAST = 256, 32
Prepared: TypeAlias = Mapping[str, list[Tensor]]
NAMES = ("st-lpips-alex", *(f"lpips-{net}" for net in BACKBONES), "mse")
DEFAULT = "st-lpips-alex"


class Features(Protocol):
    """A network that a perceptual distance is made of."""

    def slices(self, x: Tensor) -> list[Tensor]: ...

    def heads(self) -> list[Tensor]: ...


class Distance(Protocol):
    """A distance of images from fixed targets."""

    weights: str

    def lowered(self, dtype: torch.dtype) -> Distance:
        """The same distance, its network computing in `dtype`."""
        ...

    def prepare(self, target: Tensor) -> list[Tensor]:
        """What is kept of targets [M, 3, H, W], RGB in [-1, 1]."""
        ...

    def __call__(self, images: Tensor, target: list[Tensor]) -> Tensor:
        """[M], differentiable in the images."""
        ...


class Mse:
    """The mean square over pixels and colours; values are in [-1, 1]."""

    weights = "none"

    def lowered(self, dtype: torch.dtype) -> Mse:
        return self

    def prepare(self, target: Tensor) -> list[Tensor]:
        return [target]

    def __call__(self, images: Tensor, target: list[Tensor]) -> Tensor:
        return (images - target[0]).square().mean(dim=(1, 2, 3))


class Perceptual:
    """sum over slices of the mean over pixels of c_l . (u_l(a) - u_l(b))^2, Zhang et al. 2018, eq. 1.

    Args:
        network: what makes the features.
        weights: what its weights are, for reports.
        dtype: what the network computes in, default that of its weights; differences and sums stay in that of the
            images.
    """

    def __init__(self, network: Features, weights: str, dtype: torch.dtype | None = None) -> None:
        self._network, self.weights, self._dtype = network, weights, dtype

    def lowered(self, dtype: torch.dtype) -> Perceptual:
        network = copy.deepcopy(self._network)
        assert isinstance(network, nn.Module)
        return Perceptual(network.to(dtype), self.weights, dtype)

    @torch.no_grad()
    def prepare(self, target: Tensor) -> list[Tensor]:
        return [unit(x) for x in self._slices(target)]

    def _slices(self, images: Tensor) -> list[Tensor]:
        x = _resized(images)
        return [y.to(images.dtype) for y in self._network.slices(x if self._dtype is None else x.to(self._dtype))]

    def __call__(self, images: Tensor, target: list[Tensor]) -> Tensor:
        slices = self._slices(images)
        terms = [
            (head * (unit(x) - y).square()).sum(dim=1).mean(dim=(1, 2))  # [M]
            for head, x, y in zip(self._network.heads(), slices, target, strict=True)
        ]
        return torch.stack(terms).sum(dim=0)


class Loss:
    """Distances with their weights.

    Args:
        terms: (name, weight, distance).
    """

    def __init__(self, terms: Sequence[tuple[str, float, Distance]]) -> None:
        self._terms = list(terms)

    def __str__(self) -> str:
        """As `make_loss` reads it."""
        if len(self._terms) == 1 and self._terms[0][1] == 1:
            return self._terms[0][0]
        return ",".join(f"{name}={weight:g}" for name, weight, _ in self._terms)

    def lowered(self, dtype: torch.dtype) -> Loss:
        """The same loss, its networks computing in `dtype`."""
        return Loss([(name, weight, distance.lowered(dtype)) for name, weight, distance in self._terms])

    def prepare(self, target: Tensor) -> Prepared:
        """What is kept of targets [N, C, H, W] in [-1, 1]."""
        rgb = seen(target)
        return {name: distance.prepare(rgb) for name, _, distance in self._terms}

    def __call__(self, images: Tensor, target: Prepared) -> dict[str, Tensor]:
        """Unweighted distances by name, [N] each; images [N, C, H, W]."""
        rgb = seen(images)
        n = len(images)
        return {
            name: distance(rgb, target[name]).view(-1, n).mean(dim=0)  # [backgrounds, N] -> [N]
            for name, _, distance in self._terms
        }

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum, [N]."""
        return torch.stack([weight * values[name] for name, weight, _ in self._terms]).sum(dim=0)

    def describe(self) -> dict[str, Any]:
        """Plain data for reports: each distance's weight in the sum, and the weights of its network."""
        return {name: {"weight": weight, "network": distance.weights} for name, weight, distance in self._terms}


def make_loss(text: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Loss:
    """The loss that an expression such as `st-lpips-alex` or `lpips-vgg=1,mse=0.1` names.

    Raises:
        NoiseganError: for an expression that is none, or weights that are missing or others.
    """
    return Loss([(name, weight, _distance(name, device, dtype)) for name, weight in parse_loss(text)])


def parse_loss(text: str) -> list[tuple[str, float]]:
    """(name, weight) of each distance of an expression.

    Raises:
        NoiseganError: for an unknown name, one twice, or a weight that is not positive.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in NAMES:
            raise NoiseganError(f"unknown distance {name!r} in the loss {text!r}{near_match(name, NAMES)}")
        try:
            weight = float(number) if "=" in part else 1.0
        except ValueError:
            weight = math.nan
        if not (weight > 0 and math.isfinite(weight)) or name in found:
            raise NoiseganError(
                f"cannot read the loss {text!r} at {part.strip()!r}: write each distance once, with a weight above 0 "
                "or none, such as st-lpips-alex=1,mse=0.1"
            )
        found[name] = weight
    return list(found.items())


def seen(images: Tensor) -> Tensor:
    """RGB as distances see it: [N, 1 | 3, H, W] -> [N, 3, H, W]; RGBA -> [2 N, 3, H, W], over black, then over white.

    Values in about [-1, 1]. Nothing is clamped, generated alpha neither: what is clamped has no gradient to come back.
    """
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1)
    if images.shape[1] == 3:
        return images
    colour, alpha = (images[:, :3] + 1) / 2, (images[:, 3:] + 1) / 2
    over_black = colour * alpha
    return torch.cat((over_black, over_black + 1 - alpha)) * 2 - 1


def _resized(images: Tensor) -> Tensor:
    size = images.shape[-1]
    if size > LARGEST:
        return F.avg_pool2d(images, size // LARGEST)
    if size < LEAST:
        return F.interpolate(images, (LEAST, LEAST), mode="bilinear", align_corners=False)
    return images


def _distance(name: str, device: torch.device, dtype: torch.dtype) -> Distance:
    if name == "mse":
        return Mse()
    network, weights = load_st_lpips(device) if name == "st-lpips-alex" else load_lpips(name[6:], device)
    return Perceptual(network.to(dtype), weights)
