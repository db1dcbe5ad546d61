"""Convolutions of images whose gradient in the images is taken another way: the same numbers, to every order."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from noisegan.metrics.extractors.layers import ImageConv2d


@pytest.mark.parametrize(("size", "padding"), [(11, 2), (3, 1), (5, 0), (1, 0)])
def test_gradients_in_images_are_those_of_the_convolution(size: int, padding: int) -> None:
    conv = ImageConv2d(3, 4, size, padding=padding).double().requires_grad_(False)
    x = torch.randn(2, 3, 13, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain = F.conv2d(x, conv.weight, conv.bias, padding=padding)
    y = conv(x)
    assert torch.equal(y, plain)
    assert type(y.grad_fn).__name__ == "_OfImagesBackward"
    (expected,) = torch.autograd.grad(plain.pow(3).sum(), x)
    (found,) = torch.autograd.grad(y.pow(3).sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    small = x.detach()[:1, :, :size, :size].clone().requires_grad_()
    assert torch.autograd.gradcheck(conv, small)
    assert torch.autograd.gradgradcheck(lambda x: conv(x).pow(2), small)
    low = copy.deepcopy(conv).to(torch.bfloat16)(x.to(torch.bfloat16))
    g = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (rounded,) = torch.autograd.grad(low, x, g.to(torch.bfloat16))
    (exact,) = torch.autograd.grad(conv(x), x, g)
    assert float((rounded - exact).abs().max()) < 0.02 * float(exact.abs().max())


def test_convolutions_of_images_that_learn_are_torchs() -> None:
    conv = ImageConv2d(3, 4, 3, padding=1)
    y = conv(torch.ones(1, 3, 8, 8, requires_grad=True))
    assert type(y.grad_fn).__name__ == "ConvolutionBackward0"
