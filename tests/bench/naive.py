"""The straightforward implementation, kept to be beaten: the same networks and losses, written as one would at first.

Zero insertion, padding and a depthwise convolution for every resampling; bias, activation, gain, clamp and noise each
an operation of its own; modulation by a weight tensor per sample and a grouped convolution; contiguous maps; noise by
`torch.randn`; Adam and the running average one tensor at a time. The allocator stays as the system has it: the process
that runs this is started so (see `worker.py`).

It takes parameters by their names and nothing else from the networks, so it does not follow their implementation.
Only the default architectures are here: `skip` for the generator, `residual` for the discriminator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisegan.core import ema, phases
from noisegan.core.discriminator import Discriminator, DiscriminatorBlock, minibatch_std
from noisegan.core.layers import Conv2d, FullyConnected, bilinear_filter
from noisegan.core.rng import StreamSource
from noisegan.core.state import TrainState
from noisegan.core.synthesis import Synthesis, SynthesisLayer, ToRGB
from noisegan.plugins.additive import AdditiveNoise


@contextmanager
def naive(*, own_noise: bool = True) -> Iterator[None]:
    """Within it, networks and training step compute the straightforward way.

    Args:
        own_noise: draw by `torch.randn`; False keeps noisegan's streams, so that losses can be compared.
    """
    patches: list[Any] = [
        mock.patch.object(FullyConnected, "forward", fully_connected),
        mock.patch.object(Synthesis, "forward", synthesis),
        mock.patch.object(Discriminator, "forward", discriminator),
        mock.patch.object(phases, "update_ema", update_ema),
        mock.patch.object(ema, "update_ema", update_ema),
    ]
    if own_noise:

        def normal(self: StreamSource, *shape: int) -> Tensor:
            return torch.randn(self.batch, *shape, device=self._ids.device)

        def uniform(self: StreamSource, *shape: int) -> Tensor:
            return torch.rand(self.batch, *shape, device=self._ids.device)

        def integers(self: StreamSource, high: int, *shape: int) -> Tensor:
            return torch.randint(high, (self.batch, *shape), device=self._ids.device)

        patches += [mock.patch.object(StreamSource, draw.__name__, draw) for draw in (normal, uniform, integers)]
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def plain_state(state: TrainState) -> None:
    """Contiguous parameters and a per-tensor Adam, whatever noisegan has chosen."""
    for network in (state.G, state.D, state.G_ema):
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.contiguous()
    for side, optimizer in state.optimizers.items():
        group = optimizer.param_groups[0]
        state.optimizers[side] = torch.optim.Adam(
            list(state.named[side].values()),
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            foreach=False,
            fused=False,
        )


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """One tensor at a time."""
    for mean, parameter in zip(average.parameters(), network.parameters(), strict=True):
        mean.copy_(parameter.lerp(mean, decay))
    for copy, buffer in zip(average.buffers(), network.buffers(), strict=True):
        copy.copy_(buffer)


# ---------------------------------------------------------------------------------------------------------------- ops


def bias_act(x: Tensor, b: Tensor | None, act: str, gain: float = 1.0, clamp: float | None = None) -> Tensor:
    """Every part an operation."""
    if b is not None:
        x = x + b.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    if act == "lrelu":
        x = F.leaky_relu(x, 0.2)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def upfirdn2d(
    x: Tensor, f: Tensor, up: int = 1, down: int = 1, padding: tuple[int, int, int, int] = (0, 0, 0, 0), gain: float = 1
) -> Tensor:
    """Zeros in, padding, a depthwise convolution at the full size, samples out."""
    n, c, h, w = x.shape
    if up > 1:
        x = x.reshape(n, c, h, 1, w, 1)
        x = F.pad(x, [0, up - 1, 0, 0, 0, up - 1]).reshape(n, c, h * up, w * up)
    x = F.pad(x, padding)
    kernel = (torch.outer(f, f) if f.ndim == 1 else f).flip(0, 1).to(x) * gain
    x = F.conv2d(x, kernel.expand(c, 1, *kernel.shape), groups=c)
    return x[:, :, ::down, ::down] if down > 1 else x


def modulated_conv2d(x: Tensor, weight: Tensor, style: Tensor, *, up: int = 1, demodulate: bool = True) -> Tensor:
    """A weight tensor per sample, [N, O, I, k, k], and one convolution of N groups (Karras et al. 2020, eqs. 1-3)."""
    n, i, h, w = x.shape
    o, _, k, _ = weight.shape
    weights = weight * style.view(n, 1, i, 1, 1)
    if demodulate:
        weights = weights * torch.rsqrt(weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
    weights = weights.to(x.dtype)
    x = x.reshape(1, n * i, h, w)
    if up == 2:
        weights = weights.transpose(1, 2).reshape(n * i, o, k, k)
        x = F.conv_transpose2d(x, weights, stride=2, groups=n)
        x = x.reshape(n, o, 2 * h + 1, 2 * w + 1)
        return upfirdn2d(x, bilinear_filter(), padding=(1, 1, 1, 1), gain=4)
    return F.conv2d(x, weights.reshape(n * o, i, k, k), padding=k // 2, groups=n).reshape(n, o, h, w)


# ----------------------------------------------------------------------------------------------------------- networks


def fully_connected(self: FullyConnected, x: Tensor) -> Tensor:
    weight = self.weight * (self.lr_multiplier / math.sqrt(self.weight.shape[1]))
    gain = math.sqrt(2) if self.act == "lrelu" else 1.0
    return bias_act(F.linear(x, weight), self.bias * self.lr_multiplier, self.act, gain)


def site(layer: SynthesisLayer, x: Tensor, w: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
    """Modulated convolution, noise, bias, activation."""
    for label, injector in layer.latent.items():
        w = injector(w, noise[f"{layer.site.name}/latent/{label}"].to(w.dtype)).to(w.dtype)
    x = modulated_conv2d(x, layer.weight, layer.affine(w), up=2 if layer.site.upsampled else 1)
    for label, injector in layer.noise.items():
        e = noise[f"{layer.site.name}/{label}"].to(x.dtype)
        if isinstance(injector, AdditiveNoise):
            x = x + (injector.strength * e).to(x.dtype)
        else:
            x = injector(x, e, w.to(x.dtype)).to(x.dtype)
    return bias_act(x, layer.bias, "lrelu", math.sqrt(2), layer.clamp)


def to_rgb(layer: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    style = layer.affine(w) / math.sqrt(x.shape[1])
    return bias_act(modulated_conv2d(x, layer.weight, style, demodulate=False), layer.bias, "linear", clamp=layer.clamp)


def synthesis(self: Synthesis, ws: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
    """ws [N, num_ws, D], noise by key -> images."""
    x: Tensor | None = None
    img: Tensor | None = None
    first = 0
    for block in self.blocks():
        assert block.architecture == "skip"
        dtype = block.low_precision or ws.dtype
        if x is None:
            x = block.const.to(dtype).expand(len(ws), *block.const.shape)
        else:
            x = site(block.conv0, x.to(dtype), ws[:, first], noise)
            first += 1
        x = site(block.conv1, x, ws[:, first], noise)
        first += 1
        rgb = to_rgb(block.torgb, x, ws[:, first]).to(ws.dtype)
        img = rgb if img is None else upfirdn2d(img, bilinear_filter(), up=2, padding=(2, 1, 2, 1), gain=4) + rgb
    assert img is not None
    return img


def convolution(layer: Conv2d, x: Tensor, gain: float = 1.0) -> Tensor:
    """A convolution of the discriminator."""
    weight = (layer.weight * layer.weight_gain).to(x.dtype)
    kernel = weight.shape[2]
    if layer.down == 2 and kernel == 1:
        x = F.conv2d(upfirdn2d(x, bilinear_filter(), down=2, padding=(1, 1, 1, 1)), weight)
    elif layer.down == 2:
        x = F.conv2d(upfirdn2d(x, bilinear_filter(), padding=(2, 2, 2, 2)), weight, stride=2)
    else:
        x = F.conv2d(x, weight, padding=kernel // 2)
    act_gain = math.sqrt(2) * gain if layer.act == "lrelu" else gain
    return bias_act(x, layer.bias, layer.act, act_gain, None if layer.clamp is None else layer.clamp * gain)


def discriminator(self: Discriminator, img: Tensor, c: Tensor | None = None) -> Tensor:
    """Images -> logits [N, 1]."""
    assert self.c_dim == 0
    x = img
    for block in self.children():
        if not isinstance(block, DiscriminatorBlock):
            continue
        assert block.architecture == "residual"
        x = x.to(block.low_precision or img.dtype)
        if hasattr(block, "fromrgb"):
            x = convolution(block.fromrgb, x)
        shortcut = convolution(block.skip, x, math.sqrt(0.5))
        x = shortcut + convolution(block.conv1, convolution(block.conv0, x), math.sqrt(0.5))
    end: Any = self.b4
    x = x.to(img.dtype)
    if end.mbstd_group > 1:
        x = torch.cat([x, minibatch_std(x, end.mbstd_group)], dim=1)
    logits: Tensor = end.out(end.fc(convolution(end.conv, x).flatten(1)))
    return logits
