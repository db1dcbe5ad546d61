"""The layers that both networks are made of: equalised learning rate, modulated convolution, resampling.

Weights are kept at unit variance and scaled when used (Karras et al. 2018, section 4.1), so one learning rate suits
every layer. All resampling uses the bilinear filter [1, 3, 3, 1]. Computation follows the dtype of the feature map;
parameters stay as they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from noisegan.ext import bias_act, conv2d, conv_transpose2d, scale_channels, upfirdn2d
from noisegan.ext.convolution import pointwise

LOW_PRECISION_BLOCKS = 4
"""Blocks, from the highest resolution down, that compute in bfloat16 or float16 when asked (Karras et al. 2020b)."""


class Block(nn.Module):
    """All layers of one resolution. `low_precision`: the dtype it computes in, None for that of the parameters."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.low_precision: torch.dtype | None = None


def set_precision(network: nn.Module, dtype: torch.dtype | None) -> None:
    """Let the blocks of the highest resolutions, from 8 x 8, compute in `dtype`; None: in that of the parameters."""
    blocks = [module for module in network.modules() if isinstance(module, Block) and module.resolution > 4]
    for block in sorted(blocks, key=lambda block: -block.resolution)[:LOW_PRECISION_BLOCKS]:
        block.low_precision = dtype


def settle(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, its weights laid out as its convolutions take them there."""
    network.to(device)
    network.to(memory_format=convolution_layout(device, torch.float32))
    for block in network.modules():
        if not isinstance(block, Block):
            continue
        layout = convolution_layout(device, block.low_precision or torch.float32)
        block.to(memory_format=layout)
        for module in block.modules():
            if getattr(module, "upsamples", False):  # its convolution takes the weights transposed
                weight = module.get_parameter("weight")
                weight.data = weight.data.transpose(0, 1).contiguous(memory_format=layout).transpose(0, 1)


def convolution_layout(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """The layout in which convolutions of such maps are fastest: channels_last on CPUs and in 16 bits on GPUs."""
    last = device.type == "cpu" or (device.type == "cuda" and dtype in (torch.bfloat16, torch.float16))
    return torch.channels_last if last else torch.contiguous_format


def enter(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A map as a block takes it: in its dtype, laid out for its convolutions."""
    x = x.to(dtype)
    return x.contiguous(memory_format=convolution_layout(x.device, x.dtype))


def bilinear_filter() -> Tensor:
    """The taps [1, 3, 3, 1] / 8; its outer product is the filter of all up- and downsampling."""
    return torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def upsample2(x: Tensor, f: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W]; gain 4 makes up for the inserted zeros."""
    return upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4)


def downsample2(x: Tensor, f: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, H/2, W/2]."""
    return upfirdn2d(x, f, down=2, padding=(1, 1, 1, 1))


class FullyConnected(nn.Module):
    """y = act(gain_w W x + lr_multiplier b), W ~ N(0, 1 / lr_multiplier^2), gain_w = lr_multiplier / sqrt(inputs).

    Args:
        act: `linear` or `lrelu` (slope 0.2, gain sqrt 2).
        lr_multiplier: slows the layer down; 0.01 in the mapping network (Karras et al. 2019, appendix C).
        bias_init: start value of every bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.act = act
        self.lr_multiplier = lr_multiplier
        self.weight = nn.Parameter(torch.zeros(out_features, in_features))
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.random_init = {"weight": 1 / lr_multiplier}

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_features] -> [N, out_features]."""
        gain = self.lr_multiplier / math.sqrt(self.weight.shape[1])
        x = torch.addmm(self.bias, x, self.weight.T, beta=self.lr_multiplier, alpha=gain)
        return bias_act(x) if self.act == "lrelu" else x


class Conv2d(nn.Module):
    """A convolution with equalised learning rate, optional resampling by 2, bias and activation.

    Args:
        kernel: 1 or 3; padding keeps the size.
        up, down: 1 or 2; upsampling comes after the convolution's transpose, downsampling filters before it.
        clamp: limit of the output's absolute value (for float16), or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        act: str = "linear",
        bias: bool = True,
        up: int = 1,
        down: int = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.act, self.up, self.down, self.clamp = act, up, down, clamp
        self.upsamples = up == 2 and kernel == 3
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel**2)
        self.random_init = {"weight": 1.0}
        self.register_buffer("resample_filter", bilinear_filter(), persistent=False)
        self.resample_filter: Tensor

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H up / down, W up / down], times `gain`."""
        plain = self.act == "linear" and self.bias is None and self.clamp is None
        weight = (self.weight * (self.weight_gain * gain if plain else self.weight_gain)).to(x.dtype)
        x = conv2d_resample(x, weight, self.resample_filter, up=self.up, down=self.down)
        x = x.contiguous(
            memory_format=convolution_layout(x.device, x.dtype)
        )  # maps of one channel do not tell their layout
        if plain:
            return x
        act_gain = math.sqrt(2) * gain if self.act == "lrelu" else gain
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(x, self.bias, self.act, gain=act_gain, clamp=clamp)


def conv2d_resample(x: Tensor, weight: Tensor, f: Tensor, *, up: int = 1, down: int = 1) -> Tensor:
    """Size-keeping convolution with resampling by 2, filtered by f f^T.

    A 3 x 3 kernel upsamples by a transposed convolution and then filters; it downsamples by filtering and then a
    strided convolution. A 1 x 1 kernel convolves on the smaller grid.

    Args:
        x: [N, I, H, W].
        weight: [O, I, k, k], k = 1 or 3.
        f: [4] taps.
    """
    kernel = weight.shape[2]
    if up == 2:
        if kernel == 1:
            return upsample2(conv2d(x, weight), f)
        x = conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # [N, O, 2H + 1, 2W + 1]
        return upfirdn2d(x, f, padding=(1, 1, 1, 1), gain=4)
    if down == 2:
        if kernel == 1:
            return conv2d(downsample2(x, f), weight)
        x = upfirdn2d(x, f, padding=(2, 2, 2, 2))  # [N, I, H + 1, W + 1]
        return conv2d(x, weight, stride=2)
    return conv2d(x, weight, padding=kernel // 2)


def modulated_conv2d(x: Tensor, weight: Tensor, style: Tensor, f: Tensor, *, up: int = 1) -> tuple[Tensor, Tensor]:
    """Convolution whose weights are scaled by a style per sample (Karras et al. 2020, eqs. 1 to 3).

    Scaling the input channels by the style and the output channels by the demodulation is the same as scaling the
    weights, and needs no weight tensor per sample; the norms are a matrix product of squares. Demodulation itself is
    left to the caller, who can do it in passing.

    Args:
        x: [N, I, H, W].
        weight: [O, I, k, k].
        style: [N, I], s of eq. 1.
        f: [4] taps of the resampling filter.

    Returns:
        maps [N, O, H up, W up] in the dtype of `x`, and the factor that demodulates them, [N, O].
    """
    if x.dtype == torch.float16:
        # Demodulation cancels any scale of weight and style; at size one neither overflows float16.
        weight = weight / weight.abs().amax(dim=(1, 2, 3), keepdim=True) / math.sqrt(weight[0].numel())
        style = style / style.abs().amax(dim=1, keepdim=True)
    demod = demodulation(weight, style, up=up)
    return conv2d_resample(scale_channels(x, style), weight.to(x.dtype), f, up=up), demod


def demodulation(weight: Tensor, style: Tensor, *, up: int = 1) -> Tensor:
    """One over the norm of each output channel's scaled weights (Karras et al. 2020, eq. 3).

    Args:
        weight: [O, I, k, k].
        style: [N, I].
        up: 2 for a convolution that doubles the resolution.

    Returns:
        [N, O].
    """
    # Summed in the order in which `settle` lets the weights lie: six times faster than across it.
    squares = (
        weight.square().transpose(0, 1).sum(dim=(2, 3)) if up == 2 else weight.square().sum(dim=(2, 3)).T
    )  # [I, O]
    return torch.rsqrt(style.square() @ squares + 1e-8)


def modulated_pointwise(x: Tensor, weight: Tensor, style: Tensor) -> Tensor:
    """A 1 x 1 convolution to few channels, modulated but not demodulated: a matrix per sample is smaller than the maps.

    Args:
        x: [N, I, H, W].
        weight: [O, I].
        style: [N, I].

    Returns:
        [N, O, H, W] in the dtype of `x`, as rows of pixels.
    """
    return pointwise(x, (weight * style[:, None]).to(x.dtype))
