"""ST-LPIPS, a perceptual distance that forgives shifts, and the extractor `st-lpips-alex` made of it.

Ghildyal & Liu, "Shift-tolerant Perceptual Similarity Metric", ECCV 2022: LPIPS (Zhang et al. 2018) on an AlexNet whose
strides are replaced by blurred subsampling, trained from scratch on 64 x 64 patches of human judgements. Its values are
not those of LPIPS and must not be called so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisegan.api import FeatureExtractor, hookimpl
from noisegan.errors import NoiseganError
from noisegan.metrics.extractors.layers import RESIZED, ImageConv2d, for_inference, resized
from noisegan.metrics.weights import WeightsFile

WEIGHTS = WeightsFile(
    owner="st-lpips-alex",
    names=("alex_shift_tolerant.pth",),
    sha256="b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    package=("stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth"),
)

CHANNELS = (64, 192, 384, 256, 256)
SIZE = 64
"""The size it was trained for."""

SMALLEST = 21
"""Pixels below which nothing is left to blur before the third convolution."""


@hookimpl
def register_feature_extractors(register: Callable[[str, Callable[[torch.device], FeatureExtractor]], None]) -> None:
    register("st-lpips-alex", StLpipsFeatures)


class StLpipsFeatures(FeatureExtractor):
    """The last slice of ST-LPIPS averaged over space, [N, 256].

    Only the last slice: 257 images already give a covariance of full rank, and on 600 + 600 images of Fashion-MNIST
    the Frechet distance between real images grew by more from noise of 8 levels (24 times) than with all five slices
    at unit length (11 times). Images of every resolution are resized to 64 x 64, the size of its training, so that a
    feature means the same in each.

    Raises:
        NoiseganError: when the weights are missing or are others.
    """

    dim = CHANNELS[-1]

    def __init__(self, device: torch.device) -> None:
        self._network, self._weights = load_st_lpips(device)
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 RGB [N, 3, H, W] -> [N, 256] float32."""
        x = resized(images.to(self._device), SIZE) / 127.5 - 1
        return self._network.slices(x)[-1].mean(dim=(2, 3))

    def describe(self) -> dict[str, Any]:
        return {
            "weights": self._weights,
            "input": f"{RESIZED.format(size=SIZE)}, x / 127.5 - 1",
            "reference": "Ghildyal & Liu 2022, Shift-tolerant Perceptual Similarity Metric; spatial mean of slice 5",
        }


def load_st_lpips(device: torch.device) -> tuple[StLpips, str]:
    """The network with its published weights, without gradients for them, and what they are.

    Raises:
        NoiseganError: when the weights are missing or are others.
    """
    tensors, name = WEIGHTS.load()
    with torch.device("meta"):  # no time is spent on initial values
        network = StLpips()
    network.load_state_dict(tensors, assign=True)
    return for_inference(network, device), name


class StLpips(nn.Module):
    """The AlexNet of ST-LPIPS and the weights of its channels; names of modules are those of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = Scaling()
        c1, c2, c3, c4, c5 = CHANNELS
        # Between slices: a maximum over 3 x 3 at every pixel, then blurred subsampling; no pool has a stride.
        layers = (
            (ImageConv2d(3, c1, 11, 1, 2), Blur(c1), nn.ReLU()),
            (nn.MaxPool2d(3, 1), Blur(c1), nn.Conv2d(c1, c2, 5, 1, 2), nn.ReLU()),
            (nn.MaxPool2d(3, 1), Blur(c2), nn.Conv2d(c2, c3, 3, 1, 1), nn.ReLU()),
            (nn.Conv2d(c3, c4, 3, 1, 1), nn.ReLU()),
            (nn.Conv2d(c4, c5, 3, 1, 1), nn.ReLU()),
        )
        self.net, number = nn.Module(), 0
        for index, members in enumerate(layers, start=1):
            part = nn.Sequential()
            for member in members:  # numbered through all slices
                part.add_module(str(number), member)
                number += 1
            self.net.add_module(f"slice{index}", part)
        for index, channels in enumerate(CHANNELS):
            self.add_module(f"lin{index}", Head(channels))

    def slices(self, x: Tensor) -> list[Tensor]:
        """The feature map at the end of each of the five slices.

        Args:
            x: RGB images in [-1, 1], [N, 3, H, W] of 21 x 21 pixels or more; 64 x 64 is the size of its training.

        Raises:
            NoiseganError: for smaller images.
        """
        if min(x.shape[-2:]) < SMALLEST:
            raise NoiseganError(
                f"ST-LPIPS needs images of {SMALLEST} x {SMALLEST} pixels or more, got {x.shape[-1]} x {x.shape[-2]}; "
                f"enlarge them to {SIZE} x {SIZE}, for which it was trained"
            )
        features, x = [], self.scaling_layer(x)
        for part in self.net.children():
            x = part(x)
            features.append(x)
        return features

    def heads(self) -> list[Tensor]:
        """The weights c_l of the channels of each slice, five of [1, C_l, 1, 1], 0 or more."""
        return [head.weight for head in self.children() if isinstance(head, Head)]

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """sum over slices of the mean over pixels of c_l . (u_l(a) - u_l(b))^2, Zhang et al. 2018, eq. 1.

        Args:
            a, b: RGB images in [-1, 1], [N, 3, H, W]; see `slices`. Differentiable in both.

        Returns:
            [N]

        Raises:
            NoiseganError: for images below 21 x 21 pixels.
        """
        terms = [
            (head * (unit(x) - unit(y)).square()).sum(dim=1).mean(dim=(1, 2))  # [N]
            for head, x, y in zip(self.heads(), self.slices(a), self.slices(b), strict=True)
        ]
        return torch.stack(terms).sum(dim=0)


class Scaling(nn.Module):
    """From [-1, 1] to about zero mean and unit variance per colour; the constants come with the weights."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


class Blur(nn.Module):
    """Blurred subsampling by two, Zhang 2019, "Making Convolutional Networks Shift-Invariant Again": each channel is
    reflected by two pixels around, filtered by [1 2 1] x [1 2 1] / 16 (which comes with the weights) and strided."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", torch.zeros(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        # In bfloat16 a CPU's backward pass of such a convolution takes nine times as long as in float32.
        filt = self.filt.float() if x.dtype in (torch.bfloat16, torch.float16) else self.filt
        padded = F.pad(x, (2, 2, 2, 2), mode="reflect").to(filt.dtype)
        return F.conv2d(padded, filt, stride=2, groups=len(filt)).to(x.dtype)


class Head(nn.Module):
    """Holds the channel weights of one slice under their published name, `model.1.weight` [1, C, 1, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    @property
    def weight(self) -> Tensor:
        return self.model.get_parameter("1.weight")


def unit(x: Tensor) -> Tensor:
    """Each pixel's features at length one, [N, C, H, W]."""
    # the square root has no gradient at zero: a pixel without features keeps gradient zero by the tiny constant inside
    return x / (x.square().sum(dim=1, keepdim=True).add(1e-20).sqrt() + 1e-10)
