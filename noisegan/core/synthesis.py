"""The synthesis network: blocks `b4`, `b8`, ... of sites, each a modulated convolution with a seam for noise.

A feature map's way, downwards: per block `conv0` (doubles the resolution; absent in `b4`), `conv1`, `torgb`. In each
site: latent injectors change w, style injectors the style that modulates the convolution, feature injectors put noise
in, then bias and activation; `noisegan.placement` tells where else feature noise may enter. An injector that looks
ahead is told, when it asks, which convolutions read its map (`noisegan.core.ahead`). Everything here is a pure
function: random numbers come in as tensors, drawn by `Synthesis.draw`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from noisegan.api import (
    Ahead,
    AnyFeatureInjector,
    FeatureInjector,
    LatentInjector,
    LookAheadInjector,
    NoiseSite,
    Reader,
    Strategy,
    StyleInjector,
)
from noisegan.core import ahead
from noisegan.core.ahead import Following
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
from noisegan.errors import NoiseganError
from noisegan.ext import bias_act, noise_bias_act, scale_channels
from noisegan.ext.layout import layout
from noisegan.placement import PointInLayer


def noise_sites(resolution: int, *, w_dim: int, channel_base: int, channel_max: int) -> list[NoiseSite]:
    """The sites of a generator in the order in which a feature map meets them."""
    names = [(r, f"conv{i}") for r in block_resolutions(resolution) for i in (0, 1) if (r, i) != (4, 0)]

    def channels(r: int) -> int:
        return channels_at(r, channel_base, channel_max)

    return [
        NoiseSite(
            index=index,
            num_sites=len(names),
            name=f"b{r}.{conv}",
            resolution=r,
            channels=channels(r),
            in_channels=channels(r // 2 if conv == "conv0" else r),
            w_dim=w_dim,
            upsampled=conv == "conv0",
        )
        for index, (r, conv) in enumerate(names)
    ]


class SynthesisLayer(nn.Module):
    """One site: style, modulated convolution, noise, bias, activation."""

    def __init__(self, site: NoiseSite, strategies: Sequence[Strategy], *, seed: int, clamp: float | None) -> None:
        super().__init__()
        self.site = site
        self.upsamples = site.upsampled
        self.clamp = clamp
        self.affine = FullyConnected(site.w_dim, site.in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.zeros(site.channels, site.in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(site.channels))
        self.random_init = {"weight": 1.0}
        self.register_buffer("resample_filter", bilinear_filter(), persistent=False)
        self.resample_filter: Tensor
        self.latent = nn.ModuleDict()
        self.style = nn.ModuleDict()
        self.noise = nn.ModuleDict()
        self.placements: dict[PointInLayer, list[str]] = {}
        for strategy in strategies:
            if strategy.where.selects(site.index, site.resolution):
                self._add(strategy, seed)

    def _add(self, strategy: Strategy, seed: int) -> None:
        """Build the injectors of a strategy for this site."""
        spec, params, site = strategy.spec, strategy.params, self.site
        placement = strategy.where.placement
        if placement == "pre-conv":
            resolution = site.resolution // 2 if site.upsampled else site.resolution
            site = dataclasses.replace(site, channels=site.in_channels, resolution=resolution)
        kinds = (
            ("latent", self.latent, spec.latent),
            ("style", self.style, spec.style),
            ("noise", self.noise, spec.feature),
        )
        for kind, injectors, build in kinds:
            if build is not None:
                label = injector_label(strategy.name, injectors)
                with contained_randomness(seed, f"init/G.synthesis.{site.name}.{kind}.{label}"):
                    injectors[label] = build(site, params)
                if kind == "noise":
                    self.placements.setdefault(placement, []).append(label)

    def injectors(self) -> Iterator[tuple[str, str, LatentInjector | StyleInjector | AnyFeatureInjector]]:
        """(noise key, stream, injector) for each injector: those of w, of the style, of feature maps.

        The first feature injector of every strategy shares the stream of its site, so that two strategies under
        comparison meet the same numbers.
        """
        for kind, injectors in (("/latent", self.latent), ("/style", self.style), ("", self.noise)):
            for i, (label, injector) in enumerate(injectors.items()):
                assert isinstance(injector, LatentInjector | StyleInjector | AnyFeatureInjector)
                key = f"{self.site.name}{kind}/{label}"
                yield key, f"{self.site.name}{kind}" + (f"/{i}" if i else ""), injector

    def forward(
        self, x: Tensor, w: Tensor, noise: Mapping[str, Tensor], gain: float = 1.0, following: Following = tuple
    ) -> Tensor:
        """x [N, I, H, W], w [N, D], noise by key, what reads the result -> [N, C, H', W'], H' = 2H where the site
        upsamples."""
        dtype = x.dtype
        w, style = self._styled(w, noise)
        up = 2 if self.upsamples else 1
        x = self._noisy("pre-conv", x, w, noise, lambda: ahead.linear(style, (self._reader(style),)))
        if "inside-style" in self.placements and dtype == torch.float16:
            x = x.float()  # before demodulation, maps of true size do not fit into float16
        x, demod = modulated_conv2d(x, self.weight, style, self.resample_filter, up=up)  # [N, C, H', W'], [N, C]
        x = self._noisy("inside-style", x, w, noise, lambda: ahead.activated(demod, self.bias, gain, following()))
        x = self._activated(x, demod, w, noise, following, gain)
        return self._noisy("post-activation", x.to(dtype), w, noise, lambda: ahead.linear(demod, following()))

    def _styled(self, w: Tensor, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """w [N, D] after the latent injectors, and the style [N, I] after its own."""
        for label, injector in self.latent.items():
            w = injector(w, noise[f"{self.site.name}/latent/{label}"].to(w.dtype)).to(w.dtype)
        style = self.affine(w)
        for label, injector in self.style.items():
            style = injector(style, noise[f"{self.site.name}/style/{label}"].to(style.dtype)).to(style.dtype)
        return w, style

    def reader(self, w: Tensor, noise: Mapping[str, Tensor]) -> Reader:
        """This layer's convolution as what reads the map that enters it."""
        return self._reader(self._styled(w, noise)[1])

    def _reader(self, style: Tensor) -> Reader:
        return ahead.convolution(self.weight, style, self.resample_filter, up=2 if self.upsamples else 1)

    def _noisy(
        self, placement: PointInLayer, x: Tensor, w: Tensor, noise: Mapping[str, Tensor], look: Callable[[], Ahead]
    ) -> Tensor:
        """x [N, C, H, W] after the feature injectors of one point in the layer."""
        for label in self.placements.get(placement, ()):
            injector = self.noise[label]
            seen = (look(),) if isinstance(injector, LookAheadInjector) else ()
            drawn = _laid_out(noise[f"{self.site.name}/{label}"], x).to(x.dtype)
            x = injector(x, drawn, w.to(x.dtype), *seen).to(x.dtype)
        return x

    def _activated(
        self,
        x: Tensor,
        demod: Tensor,
        w: Tensor,
        noise: Mapping[str, Tensor],
        following: Following,
        gain: float,
    ) -> Tensor:
        """x [N, C, H, W] with demodulation, noise at the usual point, bias, activation: in one pass where possible."""
        act_gain, clamp = math.sqrt(2) * gain, None if self.clamp is None else self.clamp * gain
        terms = self._added(noise, x)
        if terms is None:
            x = scale_channels(x, demod)
            x = self._noisy(
                "post-conv", x, w, noise, lambda: ahead.activated(torch.ones_like(demod), self.bias, gain, following())
            )
            return bias_act(x, self.bias, gain=act_gain, clamp=clamp)
        if not terms:
            return bias_act(x, self.bias, gain=act_gain, clamp=clamp, scale=demod, overwrite=True)
        return noise_bias_act(x, *terms[0], self.bias, gain=act_gain, clamp=clamp, scale=demod, overwrite=True)

    def _added(self, noise: Mapping[str, Tensor], x: Tensor) -> list[tuple[Tensor, Tensor]] | None:
        """(noise, strength) of all that the injectors at the usual point do, where that is adding one product or
        nothing; else None.

        None too where somebody listens to an injector: its forward must be called then.
        """
        found: list[tuple[Tensor, Tensor]] = []
        for label in self.placements.get("post-conv", ()):
            injector = self.noise[label]
            drawn = noise[f"{self.site.name}/{label}"]
            added = injector.added(drawn) if isinstance(injector, FeatureInjector) else None
            if added is None or injector._forward_hooks or injector._forward_pre_hooks:
                return None
            found += added
        return [(_laid_out(e, x), strength) for e, strength in found] if len(found) <= 1 else None


def _laid_out(noise: Tensor, x: Tensor) -> Tensor:
    """Noise for x [N, C, H, W]. A number per element comes as rows of pixels and is laid out as x here, once: whatever
    passes over two layouts at a time is several times slower."""
    return noise.contiguous(memory_format=layout(x)) if noise.ndim == 4 else noise


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
        x = modulated_pointwise(x, self.weight.flatten(1), self._style(w))
        return bias_act(x, self.bias, "linear", clamp=self.clamp)

    def _style(self, w: Tensor) -> Tensor:
        style: Tensor = self.affine(w) * self.weight_gain
        return style

    def reader(self, w: Tensor) -> Reader:
        """This convolution as what reads the map that enters it."""
        return ahead.pointwise(self.weight, self._style(w))


class SynthesisBlock(Block):
    """All layers of one resolution."""

    def __init__(
        self,
        sites: Sequence[NoiseSite],
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
            self.conv0 = SynthesisLayer(sites[0], strategies, seed=seed, clamp=clamp)
        self.conv1 = SynthesisLayer(sites[-1], strategies, seed=seed, clamp=clamp)
        if architecture == "skip" or is_last:
            self.torgb = ToRGB(channels, img_channels, w_dim, clamp=clamp)
        if architecture == "residual" and self.num_conv == 2:
            self.skip = Conv2d(sites[0].in_channels, channels, 1, bias=False, up=2)

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Tensor,
        noise: Mapping[str, Tensor],
        following: Following = tuple,
    ) -> tuple[Tensor, Tensor | None]:
        """x [N, I, H/2, W/2] or None, img so far or None, ws [N, num_conv + 1, D], noise by key, what reads x next
        -> x [N, C, H, W], img."""
        dtype = self.low_precision or ws.dtype

        def read_on() -> tuple[Reader, ...]:
            own = (self.torgb.reader(ws[:, self.num_conv]),) if hasattr(self, "torgb") else ()
            return (*own, *following())

        if x is None:
            x = enter(self.const.expand(len(ws), *self.const.shape), dtype)  # [N, C, 4, 4]
            x = self.conv1(x, ws[:, 0], noise, following=read_on)
        else:
            x = enter(x, dtype)
            gain = math.sqrt(0.5) if self.architecture == "residual" else 1.0
            shortcut = self.skip(x, gain=gain) if self.architecture == "residual" else None
            x = self.conv0(x, ws[:, 0], noise, following=lambda: (self.conv1.reader(ws[:, 1], noise),))
            x = self.conv1(x, ws[:, 1], noise, gain, read_on)
            x = x if shortcut is None else shortcut + x
        if img is not None:
            img = upsample2(img, self.resample_filter)
        if hasattr(self, "torgb"):
            rgb = self.torgb(x, ws[:, self.num_conv]).to(ws.dtype)  # [N, img_channels, H, W]
            img = rgb if img is None else img + rgb
        return x, img

    def readers(self, w: Tensor, noise: Mapping[str, Tensor]) -> tuple[Reader, ...]:
        """What reads the map that enters this block; w [N, D], the block's first."""
        conv0 = self.conv0.reader(w, noise)
        if self.architecture != "residual":
            return (conv0,)
        weight = self.skip.weight * (self.skip.weight_gain * math.sqrt(0.5))
        return conv0, ahead.shortcut(weight, self.resample_filter, len(w))


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
        for strategy in strategies:
            if strategy.spec.where_parameters and not any(strategy.where.selects(s.index, s.resolution) for s in sites):
                raise NoiseganError(
                    f"noise strategy {str(strategy)!r} is in no layer: this generator has layers 0 to "
                    f"{len(sites) - 1}, of {sites[0].resolution} to {sites[-1].resolution} px"
                )
        self.resolutions = sorted({site.resolution for site in sites})
        self.num_ws = len(sites) + 1
        for r in self.resolutions:
            block_sites = [site for site in sites if site.resolution == r]
            block = SynthesisBlock(
                block_sites,
                img_channels,
                strategies,
                architecture=architecture,
                is_last=r == self.resolutions[-1],
                seed=seed,
                clamp=clamp,
            )
            self.add_module(f"b{r}", block)

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
        blocks = self.blocks()
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            last = first + block.num_conv  # torgb shares its w with the next block's first convolution
            following = partial(after.readers, ws[:, last], noise) if after else tuple
            x, img = block(x, img, ws[:, first : last + 1], noise, following)
            first = last
        assert img is not None
        return img


def injector_label(name: str, taken: nn.ModuleDict) -> str:
    """A module name for a strategy's injector: its name, or name-2, name-3 where the strategy is repeated."""
    label, count = name, 1
    while label in taken or hasattr(taken, label):
        count += 1
        label = f"{name}-{count}"
    return label
