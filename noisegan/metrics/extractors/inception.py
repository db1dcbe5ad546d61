"""Extractor `inception`: the network of the Frechet inception distance, 2048 pooled features per image.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", measure FID with the InceptionV3 (Szegedy et al.
2016) that TensorFlow published on 2015-12-05. Numbers may be called FID only with these weights, whose digest is
verified, and with what the graph does in its own way: a resize without antialiasing or half-pixel centres, average
pools that leave padding out, and a maximum instead of an average in the last block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisegan.api import FeatureExtractor, hookimpl
from noisegan.metrics.extractors.layers import ConvNorm, for_inference
from noisegan.metrics.weights import WeightsFile

WEIGHTS = WeightsFile(
    owner="inception",
    names=("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    sha256="6726825d",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)

SIZE = 299
CLASSIFIER = ("fc.weight", "fc.bias")


@hookimpl
def register_feature_extractors(register: Callable[[str, Callable[[torch.device], FeatureExtractor]], None]) -> None:
    register("inception", Inception)


class Inception(FeatureExtractor):
    """Pooled features of the FID network, [N, 2048].

    Raises:
        NoiseganError: when the weights are missing and cannot be fetched, or are others.
    """

    dim = 2048

    def __init__(self, device: torch.device) -> None:
        tensors, self._weights = WEIGHTS.load()
        with torch.device("meta"):  # no time is spent on initial values
            network = Network()
        network.load_state_dict({k: v for k, v in tensors.items() if k not in CLASSIFIER}, assign=True)
        self._network = for_inference(network, device)
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 RGB [N, 3, H, W] -> [N, 2048] float32."""
        x = resized_as_tensorflow_1(images.to(self._device, torch.float32), SIZE)
        features: Tensor = self._network((x - 128) / 128)
        return features

    def describe(self) -> dict[str, Any]:
        return {
            "weights": self._weights,
            "input": f"TensorFlow 1 bilinear resize to {SIZE} x {SIZE} (no antialiasing, corners not aligned, no "
            "half-pixel centres) in float32, (x - 128) / 128",
            "reference": "Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule; InceptionV3 of 2015-12-05",
        }


def resized_as_tensorflow_1(x: Tensor, size: int) -> Tensor:
    """TensorFlow 1's `resize_bilinear(align_corners=False)`, [N, C, H, W] -> [N, C, size, size].

    Output pixel i is read at i H / size, between its two neighbours; the last pixel is repeated beyond the edge.
    """
    for dim in (3, 2):
        length = x.shape[dim]
        place = torch.arange(size, device=x.device, dtype=torch.float32) * (length / size)
        low = place.floor().long().clamp(max=length - 1)
        high = (low + 1).clamp(max=length - 1)
        weight = (place - low).to(x.dtype)  # [size]
        weight = weight[:, None] if dim == 2 else weight
        x = torch.lerp(x.index_select(dim, low), x.index_select(dim, high), weight)
    return x


class Conv(NamedTuple):
    """One convolution of a block: its published name, channels out, kernel, stride."""

    name: str
    channels: int
    kernel: int | tuple[int, int]
    stride: int = 1


# A branch is a chain of convolutions; a pair of them at its end runs side by side and is concatenated.
Branch = tuple[Conv | tuple[Conv, Conv], ...]
Pool = Callable[[Tensor], Tensor]


def average(x: Tensor) -> Tensor:
    """Mean over 3 x 3; what lies outside the image does not count."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


class Mixed(nn.Module):
    """An inception block: branches side by side, then a pool with an optional 1 x 1 convolution, concatenated."""

    def __init__(self, inputs: int, branches: tuple[Branch, ...], pool: Pool, pool_channels: int = 0) -> None:
        super().__init__()
        self._branches, self._pool = branches, pool
        self.outputs = pool_channels or inputs
        for branch in branches:
            channels = inputs
            for link in branch:
                convs = (link,) if isinstance(link, Conv) else link
                for conv in convs:
                    self.add_module(conv.name, conv_norm(channels, conv))
                channels = sum(conv.channels for conv in convs)
            self.outputs += channels
        self.branch_pool = ConvNorm(inputs, pool_channels, 1) if pool_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H', W']."""
        parts = [self._follow(x, branch) for branch in self._branches]
        return torch.cat([*parts, self.branch_pool(self._pool(x))], dim=1)

    def _follow(self, x: Tensor, branch: Branch) -> Tensor:
        for link in branch:
            if isinstance(link, Conv):
                x = self.get_submodule(link.name)(x)
            else:
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in link], dim=1)
        return x


def conv_norm(inputs: int, conv: Conv) -> ConvNorm:
    """Within a block, stride 1 keeps the size and stride 2 takes no padding."""
    high, wide = conv.kernel if isinstance(conv.kernel, tuple) else (conv.kernel, conv.kernel)
    padding = (high // 2, wide // 2) if conv.stride == 1 else 0
    return ConvNorm(inputs, conv.channels, conv.kernel, stride=conv.stride, padding=padding)


def block_35(inputs: int, pool_channels: int) -> Mixed:
    """On 35 x 35 pixels, Szegedy et al. 2016, figure 5."""
    branches: tuple[Branch, ...] = (
        (Conv("branch1x1", 64, 1),),
        (Conv("branch5x5_1", 48, 1), Conv("branch5x5_2", 64, 5)),
        (Conv("branch3x3dbl_1", 64, 1), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3)),
    )
    return Mixed(inputs, branches, average, pool_channels)


def block_35_to_17(inputs: int) -> Mixed:
    """Szegedy et al. 2016, figure 10."""
    branches: tuple[Branch, ...] = (
        (Conv("branch3x3", 384, 3, 2),),
        (Conv("branch3x3dbl_1", 64, 1), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3, 2)),
    )
    return Mixed(inputs, branches, halve)


def block_17(inputs: int, inner: int) -> Mixed:
    """On 17 x 17 pixels: 7 x 7 filters in two factors; Szegedy et al. 2016, figure 6."""
    across, down = (1, 7), (7, 1)
    branches: tuple[Branch, ...] = (
        (Conv("branch1x1", 192, 1),),
        (Conv("branch7x7_1", inner, 1), Conv("branch7x7_2", inner, across), Conv("branch7x7_3", 192, down)),
        (
            Conv("branch7x7dbl_1", inner, 1),
            Conv("branch7x7dbl_2", inner, down),
            Conv("branch7x7dbl_3", inner, across),
            Conv("branch7x7dbl_4", inner, down),
            Conv("branch7x7dbl_5", 192, across),
        ),
    )
    return Mixed(inputs, branches, average, 192)


def block_17_to_8(inputs: int) -> Mixed:
    branches: tuple[Branch, ...] = (
        (Conv("branch3x3_1", 192, 1), Conv("branch3x3_2", 320, 3, 2)),
        (
            Conv("branch7x7x3_1", 192, 1),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, 3, 2),
        ),
    )
    return Mixed(inputs, branches, halve)


def block_8(inputs: int, pool: Pool) -> Mixed:
    """On 8 x 8 pixels: 3 x 3 filters in two factors side by side; Szegedy et al. 2016, figure 7."""
    across, down = (1, 3), (3, 1)
    branches: tuple[Branch, ...] = (
        (Conv("branch1x1", 320, 1),),
        (Conv("branch3x3_1", 384, 1), (Conv("branch3x3_2a", 384, across), Conv("branch3x3_2b", 384, down))),
        (
            Conv("branch3x3dbl_1", 448, 1),
            Conv("branch3x3dbl_2", 384, 3),
            (Conv("branch3x3dbl_3a", 384, across), Conv("branch3x3dbl_3b", 384, down)),
        ),
    )
    return Mixed(inputs, branches, pool, 192)


class Network(nn.Module):
    """InceptionV3 up to its pooled features, under the names of the published weights, which are torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = block_35(192, 32)
        self.Mixed_5c = block_35(256, 64)
        self.Mixed_5d = block_35(288, 64)
        self.Mixed_6a = block_35_to_17(288)
        self.Mixed_6b = block_17(768, 128)
        self.Mixed_6c = block_17(768, 160)
        self.Mixed_6d = block_17(768, 160)
        self.Mixed_6e = block_17(768, 192)
        self.Mixed_7a = block_17_to_8(768)
        self.Mixed_7b = block_8(1280, average)
        self.Mixed_7c = block_8(2048, maximum)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 299, 299] -> [N, 2048]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # [N, 64, 147, 147]
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(halve(x)))  # [N, 192, 71, 71]
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(halve(x))))  # [N, 288, 35, 35]
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # [N, 768, 17, 17]
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # [N, 2048, 8, 8]
        return x.mean(dim=(2, 3))
