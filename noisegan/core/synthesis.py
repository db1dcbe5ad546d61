"""The synthesis network: blocks `b4`, `b8`, ... of sites, each a modulated convolution with a seam for noise.

A feature map's way, downwards: per block `conv0` (doubles the resolution; absent in `b4`), `conv1`, `torgb`. In each
site: latent injectors change w, the style modulates the convolution, feature injectors put noise in, then bias and
activation. Everything here is a pure function: random numbers come in as tensors, drawn by `Synthesis.draw`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from noisegan.api import FeatureInjector, LatentInjector, NoiseSite, Strategy
from noisegan.core.layers import (
    Block,
    Conv2d,
    FullyConnected,
    bilinear_filter,
    enter,
    modulated_conv2d,
    modulated_pointwise,
    upsample2,
)
from noisegan.core.noise import NoiseMode
from noisegan.core.rng import contained_randomness
from noisegan.core.shapes import block_resolutions, channels_at
from noisegan.ext import bias_act, noise_bias_act, scale_channels


def noise_sites(resolution: int, *, w_dim: int, channel_base: int, channel_max: int) -> list[NoiseSite]:
    """The sites of a generator in the order in which a feature map meets them."""
    names = [(r, f"conv{i}") for r in block_resolutions(resolution) for i in (0, 1) if (r, i) != (4, 0)]
    return [
        NoiseSite(
            index=index,
            num_sites=len(names),
            name=f"b{r}.{conv}",
            resolution=r,
            channels=channels_at(r, channel_base, channel_max),
            w_dim=w_dim,
            upsampled=conv == "conv0",
        )
        for index, (r, conv) in enumerate(names)
    ]


class SynthesisLayer(nn.Module):
    """One site: style, modulated convolution, noise, bias, activation."""

    def __init__(
        self, site: NoiseSite, in_channels: int, strategies: Sequence[Strategy], *, seed: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.site = site
        self.upsamples = site.upsampled
        self.clamp = clamp
        self.affine = FullyConnected(site.w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.zeros(site.channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(site.channels))
        self.random_init = {"weight": 1.0}
        self.register_buffer("resample_filter", bilinear_filter(), persistent=False)
        self.resample_filter: Tensor
        self.latent = nn.ModuleDict()
        self.noise = nn.ModuleDict()
        for strategy in strategies:
            spec, params = strategy.spec, strategy.params
            if spec.latent is not None:
                label = injector_label(strategy.name, self.latent)
                with contained_randomness(seed, f"init/G.synthesis.{site.name}.latent.{label}"):
                    self.latent[label] = spec.latent(site, params)
            if spec.feature is not None:
                label = injector_label(strategy.name, self.noise)
                with contained_randomness(seed, f"init/G.synthesis.{site.name}.noise.{label}"):
                    self.noise[label] = spec.feature(site, params)

    def injectors(self) -> Iterator[tuple[str, str, LatentInjector | FeatureInjector]]:
        """(noise key, stream, injector) for each injector, in order of application.

        The first feature injector of every strategy shares the stream of its site, so that two strategies under
        comparison meet the same numbers.
        """
        for kind, injectors in (("/latent", self.latent), ("", self.noise)):
            for i, (label, injector) in enumerate(injectors.items()):
                assert isinstance(injector, (LatentInjector, FeatureInjector))
                key = f"{self.site.name}{kind}/{label}"
                yield key, f"{self.site.name}{kind}" + (f"/{i}" if i else ""), injector

    def forward(self, x: Tensor, w: Tensor, noise: Mapping[str, Tensor], gain: float = 1.0) -> Tensor:
        """x [N, I, H, W], w [N, D], noise by key -> [N, C, H', W'], H' = 2H where the site upsamples."""
        for label, injector in self.latent.items():
            w = injector(w, noise[f"{self.site.name}/latent/{label}"].to(w.dtype)).to(w.dtype)  # [N, D]
        up = 2 if self.upsamples else 1
        x, demod = modulated_conv2d(
            x, self.weight, self.affine(w), self.resample_filter, up=up
        )  # [N, C, H', W'], [N, C]
        gain, clamp = math.sqrt(2) * gain, None if self.clamp is None else self.clamp * gain
        terms = self._added(noise)
        if terms is None:
            x = scale_channels(x, demod)
            for label, injector in self.noise.items():
                x = injector(x, noise[f"{self.site.name}/{label}"].to(x.dtype), w.to(x.dtype)).to(x.dtype)
            return bias_act(x, self.bias, gain=gain, clamp=clamp)
        if not terms:
            return bias_act(x, self.bias, gain=gain, clamp=clamp, scale=demod, overwrite=True)
        return noise_bias_act(x, *terms[0], self.bias, gain=gain, clamp=clamp, scale=demod, overwrite=True)

    def _added(self, noise: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]] | None:
        """(noise, strength) of all that the injectors do, where that is adding one product or nothing; else None.

        None too where somebody listens to an injector: its forward must be called then.
        """
        found: list[tuple[Tensor, Tensor]] = []
        for label, injector in self.noise.items():
            assert isinstance(injector, FeatureInjector)
            added = injector.added(noise[f"{self.site.name}/{label}"])
            if added is None or injector._forward_hooks or injector._forward_pre_hooks:
                return None
            found += added
        return found if len(found) <= 1 else None


class ToRGB(nn.Module):
    """A 1 x 1 modulated convolution to image channels, without demodulation, noise or activation."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int, *, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.zeros(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.random_init = {"weight": 1.0}

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, C, H, W], w [N, D] -> [N, img_channels, H, W]."""
        x = modulated_pointwise(x, self.weight.flatten(1), self.affine(w) * self.weight_gain)
        return bias_act(x, self.bias, "linear", clamp=self.clamp)


class SynthesisBlock(Block):
    """All layers of one resolution."""

    def __init__(
        self,
        sites: Sequence[NoiseSite],
        in_channels: int,
        img_channels: int,
        strategies: Sequence[Strategy],
        *,
        architecture: str,
        is_last: bool,
        seed: int,
        clamp: float | None,
    ) -> None:
        super().__init__(sites[0].resolution)
        self.architecture = architecture
        self.num_conv = len(sites)
        channels, w_dim = sites[0].channels, sites[0].w_dim
        self.register_buffer("resample_filter", bilinear_filter(), persistent=False)
        self.resample_filter: Tensor
        if self.num_conv == 1:
            self.const = nn.Parameter(torch.zeros(channels, 4, 4))
            self.random_init = {"const": 1.0}
        else:
            self.conv0 = SynthesisLayer(sites[0], in_channels, strategies, seed=seed, clamp=clamp)
        self.conv1 = SynthesisLayer(sites[-1], channels, strategies, seed=seed, clamp=clamp)
        if architecture == "skip" or is_last:
            self.torgb = ToRGB(channels, img_channels, w_dim, clamp=clamp)
        if architecture == "residual" and self.num_conv == 2:
            self.skip = Conv2d(in_channels, channels, 1, bias=False, up=2)

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: Tensor, noise: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """x [N, I, H/2, W/2] or None, img so far or None, ws [N, num_conv + 1, D] -> x [N, C, H, W], img."""
        dtype = self.low_precision or ws.dtype
        if x is None:
            x = enter(self.const.expand(len(ws), *self.const.shape), dtype)  # [N, C, 4, 4]
            x = self.conv1(x, ws[:, 0], noise)
        elif self.architecture == "residual":
            x = enter(x, dtype)
            shortcut = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x, ws[:, 0], noise)
            x = shortcut + self.conv1(x, ws[:, 1], noise, gain=math.sqrt(0.5))
        else:
            x = self.conv0(enter(x, dtype), ws[:, 0], noise)
            x = self.conv1(x, ws[:, 1], noise)
        if img is not None:
            img = upsample2(img, self.resample_filter)
        if hasattr(self, "torgb"):
            rgb = self.torgb(x, ws[:, self.num_conv]).to(ws.dtype)  # [N, img_channels, H, W]
            img = rgb if img is None else img + rgb
        return x, img


class Synthesis(nn.Module):
    """ws and noise to images. A pure function: all randomness comes in as tensors."""

    def __init__(
        self,
        sites: Sequence[NoiseSite],
        img_channels: int,
        strategies: Sequence[Strategy],
        *,
        architecture: str,
        seed: int,
        clamp: float | None,
    ) -> None:
        super().__init__()
        self.resolutions = sorted({site.resolution for site in sites})
        self.num_ws = len(sites) + 1
        in_channels = 0
        for r in self.resolutions:
            block_sites = [site for site in sites if site.resolution == r]
            block = SynthesisBlock(
                block_sites,
                in_channels,
                img_channels,
                strategies,
                architecture=architecture,
                is_last=r == self.resolutions[-1],
                seed=seed,
                clamp=clamp,
            )
            self.add_module(f"b{r}", block)
            in_channels = block_sites[-1].channels

    def blocks(self) -> list[SynthesisBlock]:
        return [block for block in self.children() if isinstance(block, SynthesisBlock)]

    def layers(self) -> list[SynthesisLayer]:
        """The sites in order."""
        return [layer for layer in self.modules() if isinstance(layer, SynthesisLayer)]

    def draw(self, mode: NoiseMode, device: torch.device) -> dict[str, Tensor]:
        """All noise of one forward pass, by noise key. No gradient."""
        with torch.no_grad():
            return {
                key: injector.draw(mode.source(stream, device))
                for layer in self.layers()
                for key, stream, injector in layer.injectors()
            }

    def forward(self, ws: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """ws [N, num_ws, D], noise by key -> images [N, img_channels, R, R] in about [-1, 1]."""
        x: Tensor | None = None
        img: Tensor | None = None
        first = 0
        for block in self.blocks():
            # torgb shares its w with the next block's first convolution.
            x, img = block(x, img, ws[:, first : first + block.num_conv + 1], noise)
            first += block.num_conv
        assert img is not None
        return img


def injector_label(name: str, taken: nn.ModuleDict) -> str:
    """A module name for a strategy's injector: its name, or name-2, name-3 where the strategy is repeated."""
    label, count = name, 1
    while label in taken or hasattr(taken, label):
        count += 1
        label = f"{name}-{count}"
    return label
