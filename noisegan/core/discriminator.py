"""The StyleGAN2 discriminator (Karras et al. 2020): blocks `b<R>`, ..., `b8`, then minibatch statistics and a logit."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from noisegan.core.layers import Block, Conv2d, FullyConnected, bilinear_filter, downsample2, enter
from noisegan.core.mapping import MappingNetwork
from noisegan.core.rng import initialise
from noisegan.core.shapes import block_resolutions, channels_at, check_architecture, check_image_channels
from noisegan.errors import NoiseganError


class DiscriminatorBlock(Block):
    """Two convolutions, the second of which halves the resolution."""

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        out_channels: int,
        img_channels: int,
        *,
        architecture: str,
        is_first: bool,
        clamp: float | None,
    ) -> None:
        super().__init__(resolution)
        self.architecture = architecture
        self.register_buffer("resample_filter", bilinear_filter(), persistent=False)
        self.resample_filter: Tensor
        if is_first or architecture == "skip":
            self.fromrgb = Conv2d(img_channels, in_channels, 1, act="lrelu", clamp=clamp)
        self.conv0 = Conv2d(in_channels, in_channels, 3, act="lrelu", clamp=clamp)
        self.conv1 = Conv2d(in_channels, out_channels, 3, act="lrelu", down=2, clamp=clamp)
        if architecture == "residual":
            self.skip = Conv2d(in_channels, out_channels, 1, bias=False, down=2)

    def forward(self, x: Tensor | None, img: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, I, R, R] or None, img [N, c, R, R] -> x [N, O, R/2, R/2], img for the next block."""
        dtype = self.low_precision or img.dtype
        if hasattr(self, "fromrgb"):
            rgb = self.fromrgb(enter(img, dtype))
            x = rgb if x is None else x.to(dtype) + rgb
            if self.architecture == "skip":
                img = downsample2(img, self.resample_filter)
        assert x is not None
        x = enter(x, dtype)
        if self.architecture == "residual":
            shortcut: Tensor = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x)
            return shortcut + self.conv1(x, gain=math.sqrt(0.5)), img
        return self.conv1(self.conv0(x)), img


class Epilogue(nn.Module):
    """The 4 x 4 end: minibatch standard deviation, a convolution, two dense layers. Computes in full precision."""

    def __init__(
        self, in_channels: int, img_channels: int, cmap_dim: int, *, architecture: str, mbstd_group: int
    ) -> None:
        super().__init__()
        self.architecture, self.mbstd_group, self.cmap_dim = architecture, mbstd_group, cmap_dim
        if architecture == "skip":
            self.fromrgb = Conv2d(img_channels, in_channels, 1, act="lrelu")
        self.conv = Conv2d(in_channels + (mbstd_group > 1), in_channels, 3, act="lrelu")
        self.fc = FullyConnected(in_channels * 16, in_channels, act="lrelu")
        self.out = FullyConnected(in_channels, cmap_dim or 1)

    def forward(self, x: Tensor, img: Tensor, cmap: Tensor | None) -> Tensor:
        """x [N, C, 4, 4], img [N, c, 4, 4], cmap [N, cmap_dim] or None -> logits [N, 1]."""
        x = x.to(img.dtype)
        if self.architecture == "skip":
            x = x + self.fromrgb(img)
        if self.mbstd_group > 1:
            x = torch.cat([x, minibatch_std(x, self.mbstd_group)], dim=1)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is None:
            return x
        return (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)  # projection, Miyato & Koyama 2018


def minibatch_std(x: Tensor, group: int) -> Tensor:
    """Mean standard deviation over groups of neighbouring samples (Karras et al. 2018, section 3), as one map.

    Groups are runs of `group` consecutive samples, so a batch may be split between groups without changing them.
    (NVIDIA's code takes every N/g-th sample, so its logits differ where N > g.)

    Args:
        x: [N, C, H, W].

    Returns:
        [N, 1, H, W], constant within each group.

    Raises:
        NoiseganError: when N is neither below `group` nor a multiple of it.
    """
    n, _, h, w = x.shape
    group = min(group, n)
    if n % group:
        raise NoiseganError(f"a batch of {n} cannot be split into minibatch-std groups of {group}")
    y = x.view(n // group, group, *x.shape[1:])  # [N/g, g, C, H, W]
    variance = (y - y.mean(dim=1, keepdim=True)).square().mean(dim=1)  # [N/g, C, H, W]; torch's var takes 1 ms and more
    std = torch.sqrt(variance + 1e-8).mean(dim=(1, 2, 3))  # [N/g]
    return std.repeat_interleave(group).view(n, 1, 1, 1).expand(n, 1, h, w)


class Discriminator(nn.Module):
    """Images to logits; positive means real.

    Args:
        resolution, img_channels, c_dim, channel_base, channel_max, seed, clamp: as in the generator.
        architecture: `residual` (default), `skip` or `plain`.
        mbstd_group: size of the groups of the minibatch standard deviation; 1 leaves it out.
        mapping_layers: depth of the network that embeds class labels.

    Raises:
        NoiseganError: for a resolution, channel count or architecture that does not exist.
    """

    def __init__(
        self,
        *,
        resolution: int,
        img_channels: int = 3,
        c_dim: int = 0,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: str = "residual",
        mbstd_group: int = 4,
        mapping_layers: int = 8,
        seed: int = 0,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        check_image_channels(img_channels)
        check_architecture(architecture)
        self.c_dim = c_dim
        widths = {r: channels_at(r, channel_base, channel_max) for r in block_resolutions(resolution)}
        for r in sorted(widths, reverse=True)[:-1]:
            block = DiscriminatorBlock(
                r,
                widths[r],
                widths[r // 2],
                img_channels,
                architecture=architecture,
                is_first=r == resolution,
                clamp=clamp,
            )
            self.add_module(f"b{r}", block)
        cmap_dim = widths[4] if c_dim > 0 else 0
        if c_dim > 0:
            self.mapping = MappingNetwork(z_dim=0, c_dim=c_dim, w_dim=cmap_dim, layers=mapping_layers, average=False)
        self.b4 = Epilogue(widths[4], img_channels, cmap_dim, architecture=architecture, mbstd_group=mbstd_group)
        initialise(self, seed, "D")

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        """img [N, img_channels, R, R], c [N, c_dim] one-hot where conditional -> logits [N, 1]."""
        x: Tensor | None = None
        for block in self.children():
            if isinstance(block, DiscriminatorBlock):
                x, img = block(x, img)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        logits: Tensor = self.b4(x, img, cmap)
        return logits
