"""LPIPS, Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", version 0.1.

The network is built here from torchvision's description of AlexNet, VGG16 or SqueezeNet 1.1. Its weights are
torchvision's of ImageNet, which no package brings; the weights of its channels come with the package `lpips`, which is
not imported. Both are verified: the channel weights fit these networks and no others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from noisegan.metrics.extractors.layers import for_inference
from noisegan.metrics.weights import WeightsFile

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""From [-1, 1] to ImageNet's mean and standard deviation, as version 0.1 rounds them."""
_CURE = "use --loss st-lpips-alex, which works offline after pip install 'noisegan[offline]',"


@dataclass(frozen=True)
class Backbone:
    """A network of torchvision: where its slices end, and its files."""

    model: str
    ends: tuple[int, ...]
    file: str
    sha256: str
    heads_sha256: str


BACKBONES = {
    "alex": Backbone(
        "alexnet",
        (2, 5, 8, 10, 12),
        "alexnet-owt-7be5be79.pth",
        "7be5be79",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
    "vgg": Backbone(
        "vgg16",
        (4, 9, 16, 23, 30),
        "vgg16-397923af.pth",
        "397923af",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
    "squeeze": Backbone(
        "squeezenet1_1",
        (2, 5, 8, 10, 11, 12, 13),
        "squeezenet1_1-b8a52dc0.pth",
        "b8a52dc0",
        "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
    ),
}


class Lpips(nn.Module):
    """The slices of a backbone and the weights of their channels.

    Args:
        net: `alex`, `vgg` or `squeeze`.
        backbone: tensors named `features.<i>....` (others, of the classifier, are left out).
        heads: tensors named `lin<i>.model.1.weight`, [1, C_i, 1, 1].
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str, backbone: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
        super().__init__()
        about = BACKBONES[net]
        with torch.device("meta"):  # no time is spent on initial values
            layers = getattr(torchvision.models, about.model)(weights=None).features[: about.ends[-1]]
        wanted = {name: backbone[f"features.{name}"] for name in layers.state_dict()}
        layers.load_state_dict(wanted, assign=True)
        starts = (0, *about.ends[:-1])
        self.parts = nn.ModuleList(layers[a:b] for a, b in zip(starts, about.ends, strict=True))
        self._heads = [f"head{i}" for i in range(len(about.ends))]
        for i, name in enumerate(self._heads):
            self.register_buffer(name, heads[f"lin{i}.model.1.weight"])
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))

    def slices(self, x: Tensor) -> list[Tensor]:
        """The feature map at the end of each slice, of RGB images in [-1, 1], [N, 3, H, W], 32 x 32 or more."""
        x, features = (x - self.shift) / self.scale, []
        for part in self.parts:
            x = part(x)
            features.append(x)
        return features

    def heads(self) -> list[Tensor]:
        """The weights of the channels of each slice, [1, C, 1, 1], 0 or more."""
        return [self.get_buffer(name) for name in self._heads]


def backbone_file(net: str) -> WeightsFile:
    """torchvision's weights of a backbone."""
    about = BACKBONES[net]
    return WeightsFile(
        owner=f"lpips-{net}",
        names=(about.file,),
        sha256=about.sha256,
        url=f"https://download.pytorch.org/models/{about.file}",
        what="distance",
        cure=_CURE,
    )


def heads_file(net: str) -> WeightsFile:
    """The weights of the channels, in the package `lpips`."""
    return WeightsFile(
        owner=f"lpips-{net}",
        names=(f"lpips-v0.1-{net}.pth",),
        sha256=BACKBONES[net].heads_sha256,
        package=("lpips", f"weights/v0.1/{net}.pth"),
        what="distance",
        cure="pip install lpips==0.1.4, which brings them,",
    )


def load_lpips(net: str, device: torch.device) -> tuple[Lpips, str]:
    """The network with its published weights, without gradients for them, and what they are.

    Raises:
        NoiseganError: when weights are missing or are others.
    """
    heads, heads_name = heads_file(net).load()
    backbone, backbone_name = backbone_file(net).load()
    return for_inference(Lpips(net, backbone, heads), device), f"{backbone_name}, {heads_name}"
