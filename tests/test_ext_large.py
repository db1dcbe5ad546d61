"""Maps so large that the CPU library stores them past the caches: to the bit what each sample gives by itself."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from backends import native_kernels
from op_cases import DTYPES
from torch import Tensor

from noisegan.ext import host, load

Pass = Callable[[load.Kernels, Tensor], Tensor]
LAYOUTS = {"rows": torch.contiguous_format, "last": torch.channels_last}
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
THRESHOLD = 8 << 20


def forward(kernels: load.Kernels, x: Tensor) -> Tensor:
    return host.bias_act(kernels, x, None, x[0, :, 0, 0], None, None, None, (), None, 0.2, 1.5, math.inf)


def over_itself(kernels: load.Kernels, x: Tensor) -> Tensor:
    x = x.clone()
    host.bias_act_(kernels, x, None, torch.ones(x.shape[1]), None, None, None, (), None, 0.2, 1.5, math.inf)
    return x


def back(kernels: load.Kernels, x: Tensor) -> Tensor:
    y = x.flip(1).contiguous(memory_format=host.layout(x))
    return host.bias_act_grad(kernels, x, y, None, None, None, None, None, (), True, False, None, 0.2, 1.5, math.inf)[0]


def resampled(up: int, down: int, padding: int) -> Pass:
    return lambda kernels, x: host.upfirdn2d(kernels, x, TAPS, up, down, (padding,) * 4, False, 1.0)


# The side of the map as a part of that of the result.
PASSES: dict[str, tuple[Pass, float]] = {
    "forward": (forward, 1),
    "over itself": (over_itself, 1),
    "back": (back, 1),
    "up": (resampled(2, 1, 2), 0.5),
    "down": (resampled(1, 2, 1), 2),
    "filter": (resampled(1, 1, 2), 1),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [32, 35])
@pytest.mark.parametrize("name", PASSES)
def test_each_sample_is_as_if_it_were_alone(name: str, channels: int, layout: str, dtype: torch.dtype) -> None:
    """Rows of 32 channels begin where vectors do, rows of 35 mostly do not."""
    call, part = PASSES[name]
    kernels = native_kernels()
    side = round(part * math.sqrt(1.1 * THRESHOLD / dtype.itemsize / channels / 4)) // 2 * 2
    source = torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(0))
    x = source.to(dtype).contiguous(memory_format=LAYOUTS[layout])
    x[:, :, 0, 0] = 0.5  # the bias of each sample is the first one's
    found = call(kernels, x)
    assert found.nbytes >= THRESHOLD > found[0].nbytes
    for sample, alone in zip(found, x.split(1), strict=True):
        assert torch.equal(sample, call(kernels, alone)[0])


def test_the_library_has_that_threshold() -> None:
    text = (Path(host.__file__).parent / "csrc" / "cpu_lanes.h").read_text()
    (megabytes,) = re.findall(r"kPastCaches = \(i64\)(\d+) << 20;", text)
    assert int(megabytes) << 20 == THRESHOLD
