"""The CPU library has a loop for each usual set of sums and for each number of vectors: every one against the twin."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from backends import native_kernels
from op_cases import DTYPES, assert_close
from torch import Tensor

from noisegan.ext import host, reference
from noisegan.ext.layout import arithmetic

CHANNELS = (3, 16, 24, 112, 130)
"""Fewer than a vector of float32 holds; one vector; a part more; four, two and one side by side; two numbers more."""
SIZES = ((9, 15), (1, 5))
"""More pixels than are summed in float32 at a time, channels_last; fewer than are put together to make a vector."""
SUMS = {
    "bias": (),
    "noise": ("noise",),
    "map": ("sum_c",),
    "weighted map": ("sum_c", "weight"),
    "scale": ("scale", "x", "noise"),
    "scale without noise": ("scale", "x"),
    "scale without its gradient": ("scale", "noise"),
    "noise for every channel": ("noise everywhere",),
    "all": ("scale", "x", "noise", "sum_c", "weight"),
}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("clamp", [math.inf, 0.75])
def test_the_pass_back(dtype: torch.dtype, layout: torch.memory_format, clamp: float) -> None:
    kernels = native_kernels()
    side = arithmetic(dtype)
    for c in CHANNELS:
        for size in SIZES:
            shape = (2, c, *size)
            g, y, x = (normal(k, *shape).to(dtype).contiguous(memory_format=layout) for k in range(3))
            operands = {
                "x": x,
                "scale": normal(3, 2, c).to(side),
                "noise": normal(4, 2, 1, *size).to(side),
                "noise everywhere": normal(5, *shape).to(side).contiguous(memory_format=layout),
                "sum_c": True,
                "weight": normal(6, 2, c).to(side),
            }
            for name, kinds in SUMS.items():
                given = {kind: operands[kind] for kind in kinds}
                arguments = (
                    *(g, y, given.get("x"), given.get("scale"), given.get("noise", given.get("noise everywhere"))),
                    *(None, None, (), True, "sum_c" in given, given.get("weight"), 0.2, 1.5, clamp),
                )
                expected = reference.bias_act_grad(*arguments)
                assert_close(host.bias_act_grad(kernels, *arguments), expected, dtype, f"{name} {shape} {layout}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("clamp", [math.inf, 0.75])
def test_the_pass_forward(dtype: torch.dtype, layout: torch.memory_format, clamp: float) -> None:
    kernels = native_kernels()
    side = arithmetic(dtype)
    for c in CHANNELS:
        for size in SIZES:
            x = normal(0, 2, c, *size).to(dtype).contiguous(memory_format=layout)
            scale, bias, one = (
                normal(1, 2, c).to(side),
                normal(2, c).to(side),
                torch.full((1, 1, 1, 1), 0.3, dtype=side),
            )
            image, everywhere = normal(3, 2, 1, *size).to(side), normal(4, 2, c, *size).to(side)
            for noise, strength in ((None, None), (image, one), (image, image), (everywhere, one), (one, everywhere)):
                for factor in (None, scale):
                    arguments = (x, factor, bias, noise, None, None, (), strength, 0.2, 1.5, clamp)
                    expected = reference.bias_act(*arguments)
                    assert_close(host.bias_act(kernels, *arguments), expected, dtype, f"{x.shape} {layout}")


def test_without_a_result_the_activation_is_linear() -> None:
    """Whatever slope and clamp are handed over: g has no sign to ask for."""
    kernels = native_kernels()
    g = torch.tensor([[[[1.0, -1.0, 3.0]]]]).expand(2, 18, 1, 3)
    for form in (torch.contiguous_format, torch.channels_last):
        maps = g.contiguous(memory_format=form)
        arguments = (maps, None, None, None, None, None, None, (), True, True, None, 0.2, 1.5, 2.0)
        found, *sums = host.bias_act_grad(kernels, *arguments)
        assert torch.equal(found, 1.5 * g)
        expected, *theirs = reference.bias_act_grad(*arguments)
        assert torch.equal(found, expected)
        for one, other in zip(sums, theirs, strict=True):
            torch.testing.assert_close(one, other)


def test_both_sides_know_how_long_a_chunk_is() -> None:
    text = (Path(host.__file__).parent / "csrc" / "cpu_grad.h").read_text()
    (length,) = re.findall(r"kMapChunk = (\d+);", text)
    assert int(length) == host.MAP_CHUNK
