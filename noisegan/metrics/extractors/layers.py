"""What the networks of the extractors share: convolutions with a batch norm, or of images, and resizing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Activation = Callable[[Tensor], Tensor]
RELU = nn.ReLU(inplace=True)
M = TypeVar("M", bound=nn.Module)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm (eps 1e-3, as in TensorFlow's networks), activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        activation: Activation = RELU,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3)
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H', W']."""
        return self._activation(self.bn(self.conv(x)))

    def fold(self) -> None:
        """Put the batch norm's fixed scale and shift into the convolution."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv, self.bn = fuse_conv_bn_eval(self.conv, self.bn), nn.Identity()


class ImageConv2d(nn.Conv2d):
    """A convolution of images with stride 1 and a square kernel, for networks that are differentiated in the images.

    oneDNN is slow at gradients of few channels. With fixed weights a CPU takes `image_gradient` instead: 3.2 times as
    fast for 64 channels and 11 x 11 (float32, one thread), where it was a third of an inversion's distance.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, H + 2 padding - k + 1, likewise for W]."""
        transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        wanted = x.requires_grad and torch.is_grad_enabled() and not self.weight.requires_grad
        if x.device.type != "cpu" or not wanted or transformed:
            return super().forward(x)
        assert isinstance(self.padding, tuple)
        y: Tensor = _OfImages.apply(x, self.weight, self.bias, self.padding[0])
        return y


class _OfImages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return image_gradient(g, weight, ctx.padding), None, None, None


def image_gradient(g: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The gradient of <g, x * weight> with respect to the images x; differentiable in g.

    Each column of the kernel is a convolution along y into a map of its own; the maps are added with a shift along x.

    Args:
        g: [N, O, H', W'].
        weight: [O, C, k, k].
        padding: of the convolution with stride 1, below k.

    Returns:
        [N, C, H' + k - 1 - 2 padding, likewise for W'], in the dtype of g; added in float32 at least.
    """
    size, channels = weight.shape[-1], weight.shape[1]
    columns = weight.flip(2).permute(1, 3, 0, 2).flatten(0, 1).unsqueeze(-1)  # [C k, O, k, 1]
    maps = F.conv2d(g, columns, padding=(size - 1 - padding, 0)).unflatten(1, (channels, size))  # [N, C, k, H, W']
    maps = maps.to(torch.promote_types(g.dtype, torch.float32))
    width = maps.shape[-1]
    whole = maps.new_zeros(*maps.shape[:2], maps.shape[3], width + size - 1)  # [N, C, H, W + 2 padding]
    for shift in range(size):
        whole[..., shift : shift + width] += maps[:, :, shift]
    images: Tensor = whole[..., padding : whole.shape[-1] - padding].to(g.dtype)
    return images


def for_inference(network: M, device: torch.device) -> M:
    """The network without gradients and with its batch norms folded, on `device`, channels last.

    Measured on one core, EfficientNet-Lite0 is 2.6 times as fast so as in its training form (35 images/s to 13).
    """
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.fold()
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def resized(images: Tensor, size: int) -> Tensor:
    """uint8 [N, C, H, W] -> float32 [N, C, size, size], 0..255, by antialiased bicubic interpolation.

    Antialiasing and no rounding to bytes, as Parmar et al. 2022, "On Aliased Resizing and Surprising Subtleties in GAN
    Evaluation", ask; values may overshoot 0..255 at edges. Images of that size stay as they are.
    """
    images = images.to(torch.float32)
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bicubic", align_corners=False, antialias=True)


RESIZED = "antialiased bicubic resize to {size} x {size} in float32"
"""How `describe` puts it."""
