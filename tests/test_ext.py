"""The image operations against transcriptions of their definitions in NumPy and SciPy."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from noisegan.ext import bias_act, functional, reference, upfirdn2d

RNG = np.random.default_rng(7)
ASYMMETRIC = RNG.normal(size=(3, 4))
TAPS = np.array([1.0, 3.0, -2.0, 5.0, 0.5])
BILINEAR = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8


def by_definition(
    x: NDArray[Any],
    f: NDArray[Any],
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip: bool = False,
    gain: float = 1.0,
) -> NDArray[Any]:
    """Insert zeros, pad or crop, convolve where the filter fits, keep every `down`-th sample."""
    f = np.outer(f, f) if f.ndim == 1 else f
    n, c, h, w = x.shape
    stuffed = np.zeros((n, c, h * up, w * up))
    stuffed[:, :, ::up, ::up] = x
    x0, x1, y0, y1 = padding
    padded = np.pad(stuffed, ((0, 0), (0, 0), (max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))))
    bottom, right = padded.shape[2] - max(-y1, 0), padded.shape[3] - max(-x1, 0)
    padded = padded[:, :, max(-y0, 0) : bottom, max(-x0, 0) : right]
    apply = scipy.signal.correlate2d if flip else scipy.signal.convolve2d
    maps = [[apply(channel, f, mode="valid") for channel in sample] for sample in padded]
    return np.stack([np.stack(m) for m in maps])[:, :, ::down, ::down] * gain


def assert_by_definition(f: NDArray[Any], size: tuple[int, int] = (6, 7), **options: Any) -> None:
    x = np.random.default_rng(1).normal(size=(2, 3, *size))
    expected = by_definition(x, f, **options)
    found = upfirdn2d(torch.from_numpy(x), torch.from_numpy(f), **options).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("up", [1, 2, 3])
@pytest.mark.parametrize("down", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 7), (5, 5), (1, 9)])
def test_upfirdn2d_is_zero_insertion_padding_convolution_and_dropping(
    up: int, down: int, size: tuple[int, int]
) -> None:
    assert_by_definition(ASYMMETRIC, size, up=up, down=down, padding=(3, 2, 4, 1))


@pytest.mark.parametrize("up", [1, 2])
def test_flip_correlates_instead_of_convolving(up: int) -> None:
    assert_by_definition(ASYMMETRIC, up=up, padding=(2, 1, 1, 2), flip=True)
    x, f = torch.ones(1, 1, 5, 5, dtype=torch.float64).cumsum(2), torch.from_numpy(ASYMMETRIC)
    assert not torch.allclose(upfirdn2d(x, f, up=up, flip=True), upfirdn2d(x, f, up=up))


@pytest.mark.parametrize("padding", [(-1, 0, 0, -2), (-2, 3, 4, -1), (-1, -1, -1, -1)])
@pytest.mark.parametrize("up", [1, 2])
def test_negative_padding_crops(padding: tuple[int, int, int, int], up: int) -> None:
    assert_by_definition(ASYMMETRIC, (9, 8), up=up, down=2, padding=padding)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("flip", [False, True])
def test_one_dimensional_taps_mean_their_outer_product(up: int, down: int, flip: bool) -> None:
    assert_by_definition(TAPS, up=up, down=down, padding=(4, 3, 2, 5), flip=flip)


@pytest.mark.parametrize("up", [1, 2])
def test_gain_scales_the_result(up: int) -> None:
    assert_by_definition(ASYMMETRIC, up=up, padding=(1, 1, 1, 1), gain=2.5)


def test_a_large_factor_and_a_small_filter_leave_gaps() -> None:
    assert_by_definition(np.array([[2.0]]), (3, 4), up=3)
    assert_by_definition(np.array([1.0, -2.0]), (3, 4), up=3, padding=(1, 2, 0, 3))


def test_up_filter_is_the_bilinear_interpolation_of_torch() -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    oracle = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(upfirdn2d(x, BILINEAR, up=2, padding=(2, 1, 2, 1), gain=4), oracle)


def test_down_filter_is_the_antialiased_interpolation_of_torch() -> None:
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = F.pad(x, (4, 4, 4, 4))
    oracle = F.interpolate(padded, scale_factor=0.5, mode="bilinear", antialias=True)[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(upfirdn2d(x, BILINEAR, down=2, padding=(1, 1, 1, 1)), oracle)


@pytest.mark.parametrize(("up", "down", "flip"), [(1, 1, False), (2, 1, True), (1, 2, False), (2, 3, True)])
def test_upfirdn2d_has_first_and_second_gradients(up: int, down: int, flip: bool) -> None:
    x = torch.from_numpy(RNG.normal(size=(1, 2, 4, 3))).requires_grad_()
    f = torch.from_numpy(ASYMMETRIC).requires_grad_()

    def call(x: Tensor, f: Tensor) -> Tensor:
        return upfirdn2d(x, f, up=up, down=down, padding=(2, 1, 1, 2), flip=flip, gain=1.5)

    assert torch.autograd.gradcheck(call, (x, f))
    assert torch.autograd.gradgradcheck(call, (x, f))


def test_a_filter_learns_by_plain_pytorch_and_only_while_it_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    x, f, plain = torch.zeros(1, 1, 4, 4), torch.ones(2, requires_grad=True), []
    monkeypatch.setattr(functional, "reference", SimpleNamespace(upfirdn2d=lambda *how: plain.append(how)))
    upfirdn2d(x, f)
    with torch.no_grad():
        assert upfirdn2d(x, f).shape == (1, 1, 3, 3)
    assert len(plain) == 1


class Convolutions(TorchFunctionMode):
    """Notes the types of the maps and filters that are convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[set[torch.dtype]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (F.conv2d, F.conv_transpose2d):
            self.seen.append({args[0].dtype, args[1].dtype})
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("up", [1, 2])
def test_plain_resampling_of_sixteen_bits_is_rounded_once_on_every_device(dtype: torch.dtype, up: int) -> None:
    """Seen on a device that computes nothing: what a GPU would be asked for."""
    x, f = torch.empty(1, 2, 6, 6, dtype=dtype, device="meta"), torch.empty(4, device="meta")
    with Convolutions() as convolutions:
        assert reference.upfirdn2d(x, f, up, 1, (2, 1, 2, 1), False, 1.5).dtype == dtype
    assert convolutions.seen == [{torch.float32}]


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (2, 4, 3, 5)])
@pytest.mark.parametrize(("act", "default_gain"), [("lrelu", math.sqrt(2)), ("linear", 1.0)])
@pytest.mark.parametrize("gain", [None, 0.7, 1.0])
@pytest.mark.parametrize("clamp", [None, 0.6])
def test_bias_act_adds_activates_scales_and_clamps(
    shape: tuple[int, ...], act: str, default_gain: float, gain: float | None, clamp: float | None
) -> None:
    rng = np.random.default_rng(3)
    x, b = rng.normal(size=shape), rng.normal(size=shape[1])
    y = x + b.reshape(1, -1, *[1] * (len(shape) - 2))
    y = np.where(y < 0, 0.2 * y, y) if act == "lrelu" else y
    y = y * (default_gain if gain is None else gain)
    y = y if clamp is None else np.clip(y, -clamp, clamp)
    found = bias_act(torch.from_numpy(x), torch.from_numpy(b), act, gain=gain, clamp=clamp)
    np.testing.assert_allclose(found.numpy(), y, rtol=0, atol=1e-12)


def test_bias_act_works_without_a_bias() -> None:
    x = torch.tensor([[-1.0, 2.0]])
    torch.testing.assert_close(bias_act(x), torch.tensor([[-0.2, 2.0]]) * math.sqrt(2))
    torch.testing.assert_close(bias_act(x, act="linear"), x)


def test_bias_act_leaves_its_input_alone() -> None:
    x = torch.tensor([[-1.0, 2.0]])
    bias_act(x, torch.tensor([5.0, 6.0]), clamp=1)
    torch.testing.assert_close(x, torch.tensor([[-1.0, 2.0]]))


def test_bias_act_computes_in_the_dtype_of_its_input() -> None:
    assert bias_act(torch.ones(1, 2, dtype=torch.bfloat16), torch.ones(2)).dtype == torch.bfloat16


def test_bias_act_names_the_activations_it_knows() -> None:
    with pytest.raises(ValueError, match="act must be 'lrelu' or 'linear', not 'relu'"):
        bias_act(torch.zeros(1, 1), act="relu")


@pytest.mark.parametrize("act", ["lrelu", "linear"])
@pytest.mark.parametrize("clamp", [None, 0.8])
def test_bias_act_has_first_and_second_gradients(act: str, clamp: float | None) -> None:
    # Values stay 0.04 or more away from the kinks at 0 and at the clamp.
    x = torch.tensor([[-3.0, -0.9, 0.2], [0.3, 1.2, -0.2]], dtype=torch.float64).view(1, 2, 3).requires_grad_()
    b = torch.tensor([0.05, -0.05], dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, b: Tensor) -> Tensor:
        return bias_act(x, b, act, clamp=clamp) ** 2  # squared, so that second gradients are not all zero

    assert torch.autograd.gradcheck(call, (x, b))
    assert torch.autograd.gradgradcheck(call, (x, b))
