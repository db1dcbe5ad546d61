"""The layers against the equations of the papers, written with explicit weights per sample."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from noisegan.core.layers import (
    Conv2d,
    FullyConnected,
    conv2d_resample,
    downsample2,
    modulated_conv2d,
    modulated_pointwise,
    upsample2,
)
from noisegan.core.rng import Streams, initialise

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
LOPSIDED = torch.tensor([1.0, 2.0, 4.0, -1.0], dtype=torch.float64) / 6
"""An asymmetric filter tells convolution from correlation."""


def normal(name: str, n: int, *shape: int) -> Tensor:
    return Streams(5)[name].source(ids=range(n)).normal(*shape).double()


def zero_inserted(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W]: samples at even places."""
    out = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    out[:, :, ::2, ::2] = x
    return out


def convolve(x: Tensor, kernel: Tensor, before: int, after: int) -> Tensor:
    """True convolution of x [N, I, H, W] with [O, I, k, k], zeros around."""
    return F.conv2d(F.pad(x, (before, after, before, after)), kernel.flip(2, 3))


def filtered(x: Tensor, taps: Tensor, before: int, after: int) -> Tensor:
    """Every channel convolved with the outer product of the taps."""
    n, c, h, w = x.shape
    out = convolve(x.reshape(n * c, 1, h, w), torch.outer(taps, taps)[None, None], before, after)
    return out.view(n, c, *out.shape[2:])


def resampled(x: Tensor, weight: Tensor, taps: Tensor, up: int, down: int) -> Tensor:
    """Resampling convolution on the fine grid: nothing is skipped, nothing is fused."""
    k = weight.shape[2]
    if up == 2 and k == 3:  # transposed: a true convolution of the stuffed map, then the filter
        full = convolve(zero_inserted(x), weight, 2, 2)[:, :, : 2 * x.shape[2] + 1, : 2 * x.shape[3] + 1]
        return 4 * filtered(full, taps, 1, 1)
    if up == 2:
        return 4 * filtered(zero_inserted(F.conv2d(x, weight)), taps, 2, 1)
    if down == 2 and k == 3:
        return F.conv2d(filtered(x, taps, 2, 2), weight)[:, :, ::2, ::2]
    if down == 2:
        return F.conv2d(filtered(x, taps, 1, 1), weight)[:, :, ::2, ::2]
    return F.conv2d(x, weight, padding=k // 2)


def modulated(x: Tensor, weight: Tensor, style: Tensor, taps: Tensor, up: int, demodulate: bool) -> Tensor:
    """Karras et al. 2020, equations 1 to 3, sample by sample."""
    images = []
    for sample, s in zip(x, style, strict=True):
        w = s[None, :, None, None] * weight  # eq. 1
        if demodulate:
            w = w / torch.sqrt((w**2).sum(dim=(1, 2, 3), keepdim=True) + 1e-8)  # eq. 3
        images.append(resampled(sample[None], w, taps, up, 1))
    return torch.cat(images)


def demodulated(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    maps, factor = modulated_conv2d(x, *arguments, **options)
    return maps * factor[:, :, None, None].to(x.dtype)


def either(x: Tensor, weight: Tensor, style: Tensor, taps: Tensor, up: int, demodulate: bool) -> Tensor:
    """The function for the case: only 1 x 1 kernels go without demodulation."""
    if demodulate:
        return demodulated(x, weight, style, taps, up=up)
    return modulated_pointwise(x, weight.flatten(1), style)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("size", [(4, 4), (2, 6)])
def test_conv2d_resample_is_convolution_and_filter_on_the_fine_grid(
    kernel: int, up: int, down: int, size: tuple[int, int]
) -> None:
    x, weight = normal("x", 2, 3, *size), normal("weight", 5, 3, kernel, kernel)
    found = conv2d_resample(x, weight, LOPSIDED, up=up, down=down)
    assert found.shape == (2, 5, size[0] * up // down, size[1] * up // down)
    torch.testing.assert_close(found, resampled(x, weight, LOPSIDED, up, down), rtol=0, atol=1e-12)


def test_resampling_keeps_a_constant_inside_the_border() -> None:
    x = torch.full((1, 1, 8, 8), 3.0, dtype=torch.float64)
    for y in (upsample2(x, TAPS), downsample2(x, TAPS)):
        torch.testing.assert_close(y[:, :, 1:-1, 1:-1], torch.full_like(y[:, :, 1:-1, 1:-1], 3.0))


def test_up_and_downsampling_are_adjoint_up_to_the_gain() -> None:
    x, y = normal("x", 1, 1, 4, 4), normal("y", 1, 1, 8, 8)
    torch.testing.assert_close((upsample2(x, TAPS) * y).sum(), 4 * (x * downsample2(y, TAPS)).sum())


MODULATED = [(1, 1, True), (1, 1, False), (3, 1, True), (3, 2, True), (1, 2, True)]


@pytest.mark.parametrize(("kernel", "up", "demodulate"), MODULATED)
def test_modulated_convolution_has_the_values_of_the_paper(kernel: int, up: int, demodulate: bool) -> None:
    x, weight, style = normal("x", 3, 4, 5, 5), normal("weight", 6, 4, kernel, kernel), normal("style", 3, 4)
    found = either(x, weight, style, LOPSIDED, up, demodulate)
    torch.testing.assert_close(found, modulated(x, weight, style, LOPSIDED, up, demodulate), rtol=0, atol=1e-12)


def test_demodulation_of_a_vanishing_style_is_finite_and_follows_epsilon() -> None:
    x, weight, style = normal("x", 2, 4, 3, 3), normal("weight", 6, 4, 3, 3), 1e-6 * normal("style", 2, 4)
    found = demodulated(x, weight, style, TAPS)
    torch.testing.assert_close(found, modulated(x, weight, style, TAPS, 1, True), rtol=0, atol=1e-12)
    assert torch.equal(demodulated(x, weight, 0 * style, TAPS), torch.zeros_like(found))


@pytest.mark.parametrize(("kernel", "up", "demodulate"), MODULATED)
def test_modulated_convolution_has_the_first_and_second_gradients_of_the_paper(
    kernel: int, up: int, demodulate: bool
) -> None:
    inputs = [normal("x", 2, 3, 3, 3), normal("weight", 2, 3, kernel, kernel), normal("style", 2, 3)]
    found, expected = [
        two_gradients(f, [i.clone().requires_grad_() for i in inputs])
        for f in (
            lambda x, w, s: either(x, w, s, TAPS, up, demodulate),
            lambda x, w, s: modulated(x, w, s, TAPS, up, demodulate),
        )
    ]
    assert len(found) == 6
    for f, e in zip(found, expected, strict=True):
        assert float(e.detach().abs().max()) > 1e-3
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-9)


def two_gradients(f, inputs: list[Tensor]) -> list[Tensor]:  # type: ignore[no-untyped-def]
    y = f(*inputs)
    first = torch.autograd.grad((y * torch.linspace(-1, 2, y.numel()).view_as(y)).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    return [*first, *second]


def test_modulated_convolution_passes_gradgradcheck() -> None:
    inputs = [normal("x", 1, 2, 2, 2), normal("weight", 2, 2, 3, 3), normal("style", 1, 2)]
    leaves = tuple(i.requires_grad_() for i in inputs)
    assert torch.autograd.gradcheck(lambda *a: demodulated(*a, TAPS, up=2), leaves)
    assert torch.autograd.gradgradcheck(lambda *a: demodulated(*a, TAPS, up=2), leaves)


@pytest.mark.parametrize("style_size", [0.01, 1.0, 100.0])
def test_demodulated_features_have_unit_variance(style_size: float) -> None:
    x, weight, style = normal("x", 8, 32, 16, 16), normal("weight", 32, 32, 3, 3), normal("style", 8, 32)
    inside = demodulated(x, weight, style_size * style, TAPS)[:, :, 1:-1, 1:-1]
    assert float(inside.var()) == pytest.approx(1, abs=0.05)


def test_float16_agrees_with_float64() -> None:
    x, weight, style = normal("x", 2, 8, 4, 4), normal("weight", 8, 8, 3, 3), 1 + normal("style", 2, 8)
    for up in (1, 2):
        half = demodulated(x.half(), weight.float(), style.float(), TAPS.float(), up=up)
        assert half.dtype == torch.float16
        torch.testing.assert_close(half.double(), modulated(x, weight, style, TAPS, up, True), rtol=0.01, atol=0.02)


def test_float16_survives_styles_that_would_overflow_it() -> None:
    x, weight, style = normal("x", 2, 8, 4, 4), normal("weight", 8, 8, 3, 3), 3e5 * (1 + normal("style", 2, 8))
    assert not torch.isfinite((x * style[:, :, None, None]).half()).all()  # the naive way
    half = demodulated(x.half(), weight.float(), style.float(), TAPS.float())
    torch.testing.assert_close(half.double(), modulated(x, weight, style, TAPS, 1, True), rtol=0.01, atol=0.02)


def test_bfloat16_features_give_bfloat16() -> None:
    x, weight, style = normal("x", 2, 8, 4, 4), normal("weight", 8, 8, 3, 3), 1 + normal("style", 2, 8)
    found = demodulated(x.bfloat16(), weight.float(), style.float(), TAPS.float())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), modulated(x, weight, style, TAPS, 1, True), rtol=0.05, atol=0.1)


def test_fully_connected_scales_weights_and_bias_when_used() -> None:
    layer = FullyConnected(5, 3, lr_multiplier=0.01, bias_init=2).double()
    with torch.no_grad():
        layer.weight.copy_(normal("weight", 3, 5))
        layer.bias.copy_(normal("bias", 1, 3)[0])
    x = normal("x", 4, 5)
    expected = x @ layer.weight.T * (0.01 / math.sqrt(5)) + 0.01 * layer.bias
    torch.testing.assert_close(layer(x), expected)
    layer.act = "lrelu"
    torch.testing.assert_close(layer(x), torch.where(expected > 0, expected, 0.2 * expected) * math.sqrt(2))


@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
def test_fully_connected_keeps_unit_variance_at_the_start(lr_multiplier: float) -> None:
    layer = FullyConnected(256, 256, lr_multiplier=lr_multiplier)
    initialise(layer, 0, "test")
    assert float(layer.weight.detach().std()) == pytest.approx(1 / lr_multiplier, rel=0.02)
    assert float(layer(normal("x", 64, 256).float()).detach().std()) == pytest.approx(1, abs=0.05)


def test_fully_connected_starts_at_its_bias() -> None:
    assert FullyConnected(2, 3, bias_init=1).bias.tolist() == [1, 1, 1]
    assert FullyConnected(2, 3).bias.tolist() == [0, 0, 0]


@pytest.mark.parametrize("act", ["linear", "lrelu"])
@pytest.mark.parametrize("clamp", [None, 0.5])
def test_conv2d_scales_its_weights_and_its_output(act: str, clamp: float | None) -> None:
    layer = Conv2d(4, 6, 3, act=act, clamp=clamp).double()
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(normal("weight", 6, 4, 3, 3))
        layer.bias.copy_(normal("bias", 1, 6)[0])
    x = normal("x", 2, 4, 5, 5)
    y = F.conv2d(x, layer.weight / math.sqrt(4 * 9), layer.bias, padding=1)
    y = F.leaky_relu(y, 0.2) * math.sqrt(2) if act == "lrelu" else y
    y = y * 0.7
    y = y if clamp is None else y.clamp(-clamp * 0.7, clamp * 0.7)
    torch.testing.assert_close(layer(x, gain=0.7), y)


def test_conv2d_without_bias_has_no_such_parameter() -> None:
    assert [name for name, _ in Conv2d(2, 3, 1, bias=False, up=2).named_parameters()] == ["weight"]
