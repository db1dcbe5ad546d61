"""What noisegan finds on this machine, and whether its operations compute what they should, as plain data."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import noisegan
from noisegan.errors import NoiseganError
from noisegan.ext import (
    bias_act,
    cache,
    conv2d,
    conv_transpose2d,
    load,
    noise_bias_act,
    nvrtc,
    philox_bits,
    philox_normal,
    philox_uniform,
    scale_channels,
    toolchain,
    upfirdn2d,
)
from noisegan.ext import philox as plain
from noisegan.ext.functional import LRELU_SLOPE, DrawnNoise

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest difference allowed, relative to the largest number expected: rounding of the result and of float32 sums."""


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """An operation on a device: did it give the values and first derivatives of its definition?"""

    op: str
    device: str
    backend: str
    dtypes: list[str]
    passed: bool
    detail: str


def examine() -> dict[str, Any]:
    """Everything, ready for JSON. Builds what would be built at the first use."""
    backends = {str(device): _backend(device) for device in _devices()}
    return {
        "versions": {
            "noisegan": noisegan.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda_of_torch": torch.version.cuda,
            "numpy": np.__version__,
            "system": platform.platform(),
        },
        "devices": [_describe(device) for device in _devices()],
        "tools": {
            "compilers": [str(tool) for tool in toolchain.compilers()],
            "ninja": _text(toolchain.ninja()),
            "nvcc": _text(toolchain.cuda_toolkit()),
            "nvrtc": _nvrtc(),
        },
        "cache": _cache(),
        "NOISEGAN_EXT": os.environ.get(load.VARIABLE) or "auto",
        "backends": backends,
        "self_tests": [asdict(test) for device in _devices() for test in self_tests(device, **backends[str(device)])],
    }


def self_tests(device: torch.device, backend: str | None, why: str | None) -> list[SelfTest]:
    """Every operation on a device against its definition.

    Args:
        backend: what it runs on there; None when that is an error, `why`.
    """
    found = []
    for name, check in _CHECKS.items():
        dtypes = (
            [_STREAMS[name]] if name in _STREAMS else [t for t in TOLERANCES if device.type != "mps" or t.itemsize < 8]
        )
        problem = why if backend is None else _problem(check, dtypes, device)
        found.append(
            SelfTest(
                op=name,
                device=str(device),
                backend=backend or "none",
                dtypes=[_name(dtype) for dtype in dtypes],
                passed=problem is None,
                detail=problem or "",
            )
        )
    return found


def _problem(
    check: Callable[[torch.dtype, torch.device], None], dtypes: list[torch.dtype], device: torch.device
) -> Any:
    for dtype in dtypes:
        try:
            check(dtype, device)
        except Exception as error:  # whatever goes wrong is what the doctor was asked for
            return f"{_name(dtype)}: {' '.join(str(error).split()) or type(error).__name__}"
    return None


def _backend(device: torch.device) -> dict[str, str | None]:
    try:
        choice = load.choose(device)
    except (NoiseganError, RuntimeError) as error:  # or a GPU that does not answer
        return {"backend": None, "why": str(error)}
    return {"backend": choice.backend, "why": choice.why}


def _devices() -> list[torch.device]:
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [torch.device("cpu"), *gpus, *([torch.device("mps")] if torch.backends.mps.is_available() else [])]


def _describe(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return {
            "device": "cpu",
            "name": toolchain.processor(),
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "features": toolchain.processor_features(),
        }
    if device.type == "cuda":
        try:
            about = torch.cuda.get_device_properties(device)
        except RuntimeError as error:
            return {"device": str(device), "name": f"does not answer: {str(error).splitlines()[0]}"}
        return {
            "device": str(device),
            "name": about.name,
            "capability": f"{about.major}.{about.minor}",
            "memory_bytes": about.total_memory,
        }
    return {"device": str(device), "name": platform.processor()}


def _cache() -> dict[str, Any]:
    entries = cache.entries()
    return {
        "folder": str(cache.folder()),
        "bytes": sum(entry.size for entry in entries),
        "entries": [{"file": str(entry.path), "bytes": entry.size, "key": entry.key_parts} for entry in entries],
    }


def _nvrtc() -> str | None:
    try:
        return nvrtc.version()
    except NoiseganError:
        return None


def _text(tool: toolchain.Tool | None) -> str | None:
    return None if tool is None else str(tool)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# The checks: an operation and its definition are given the same inputs; the definition computes in float64 on the CPU.


def _check_bias_act(dtype: torch.dtype, device: torch.device) -> None:
    clamp = 1.0 if dtype in (torch.float32, torch.float64) else None  # 16 bits may round a value onto the limit
    _compare(
        lambda x, b: bias_act(x, b, clamp=clamp),
        lambda x, b: _activated(x + b.view(-1, 1, 1), clamp),
        [_map(dtype), _numbers(5, dtype=_side(dtype))],
        device,
    )


def _check_noise_bias_act(dtype: torch.dtype, device: torch.device) -> None:
    ids = torch.tensor([3, 2**40])
    e = plain.philox_normal((1, 2), 7, ids, 8 * 6).view(2, 1, 8, 6)
    inputs = [_map(dtype), *(_numbers(*shape, dtype=_side(dtype)) for shape in ((), (5,), (2, 5)))]

    def expected(x: Tensor, strength: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return _activated(x * scale[:, :, None, None] + strength * e.double() + b.view(-1, 1, 1), None)

    def run(noise: Tensor | DrawnNoise, tolerance: float) -> None:
        _compare(
            lambda x, s, b, scale: noise_bias_act(x, noise, s, b, scale=scale), expected, inputs, device, tolerance
        )

    run(e.to(device), TOLERANCES[dtype])
    run(DrawnNoise((1, 2), 7, ids.to(device)), max(TOLERANCES[dtype], 1e-6))  # drawn as float32


def _check_scale_channels(dtype: torch.dtype, device: torch.device) -> None:
    _compare(
        scale_channels,
        lambda x, scale: x * scale[:, :, None, None],
        [_map(dtype), _numbers(2, 5, dtype=_side(dtype))],
        device,
    )


def _check_upfirdn2d(dtype: torch.dtype, device: torch.device) -> None:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    general = _numbers(3, 4)
    for f, up, down, padding in (
        (taps, 2, 1, (2, 1, 2, 1)),
        (taps, 1, 2, (1, 1, 1, 1)),
        (general, 3, 2, (4, -1, 0, 3)),
    ):
        on_device = f.to(device, _side(dtype))
        _compare(
            lambda x: upfirdn2d(x, on_device, up, down, padding, gain=1.5),  # noqa: B023
            lambda x: _resampled(x, f.double(), up, down, padding) * 1.5,  # noqa: B023
            [_map(dtype)],
            device,
        )


def _check_conv2d(dtype: torch.dtype, device: torch.device) -> None:
    # As small as Winograd's way is taken on a CPU (noisegan/ext/winograd.py).
    inputs = [_numbers(2, 32, 32, 24, dtype=dtype), _numbers(32, 32, 3, 3, dtype=dtype)]
    _compare(
        lambda x, w: conv2d(x, w, padding=1),
        lambda x, w: F.conv2d(x, w, padding=1),
        inputs,
        device,
        _sums(dtype, device),
    )


def _check_conv_transpose2d(dtype: torch.dtype, device: torch.device) -> None:
    _compare(
        lambda x, w: conv_transpose2d(x, w, stride=2),
        lambda x, w: F.conv_transpose2d(x, w, stride=2),
        [_map(dtype), _numbers(5, 3, 3, 3, dtype=dtype)],
        device,
        _sums(dtype, device),
    )


def _sums(dtype: torch.dtype, device: torch.device) -> float:
    """The tolerance of long sums: where TF32 is allowed, GPUs multiply float32 with ten bits behind the point."""
    rounded = device.type == "cuda" and dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return 3e-3 if rounded else TOLERANCES[dtype]


def _resampled(x: Tensor, f: Tensor, up: int, down: int, padding: tuple[int, int, int, int]) -> Tensor:
    """Zeros inserted, padded or cropped, convolved, every `down`-th sample kept."""
    f = torch.outer(f, f) if f.ndim == 1 else f
    n, c, h, w = x.shape
    x = F.pad(x.view(n * c, 1, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n * c, 1, h * up, w * up)
    x = F.conv2d(F.pad(x, padding), f.flip(0, 1)[None, None])[:, :, ::down, ::down]
    return x.reshape(n, c, *x.shape[2:])


def _check_stream(draw: Callable[..., Tensor], definition: Callable[..., Tensor], tolerance: float) -> Any:
    def check(dtype: torch.dtype, device: torch.device) -> None:
        ids = torch.tensor([0, 5, 2**40 + 1])
        _close(
            "values", draw((11, 2**32 - 1), 9, ids.to(device), 37), definition((11, 2**32 - 1), 9, ids, 37), tolerance
        )

    return check


_STREAMS = {"philox_bits": torch.int64, "philox_uniform": torch.float32, "philox_normal": torch.float32}
_CHECKS: dict[str, Callable[[torch.dtype, torch.device], None]] = {
    "bias_act": _check_bias_act,
    "conv2d": _check_conv2d,
    "conv_transpose2d": _check_conv_transpose2d,
    "noise_bias_act": _check_noise_bias_act,
    "scale_channels": _check_scale_channels,
    "upfirdn2d": _check_upfirdn2d,
    "philox_bits": _check_stream(philox_bits, plain.philox_bits, 0.0),
    "philox_uniform": _check_stream(philox_uniform, plain.philox_uniform, 0.0),
    "philox_normal": _check_stream(philox_normal, plain.philox_normal, 1e-6),
}


def _compare(
    op: Callable[..., Tensor],
    definition: Callable[..., Tensor],
    inputs: list[Tensor],
    device: torch.device,
    tolerance: float | None = None,
) -> None:
    """Values and first derivatives, as rows of pixels and as channels_last.

    Raises:
        ValueError: when they differ.
    """
    tolerance = TOLERANCES[inputs[0].dtype] if tolerance is None else tolerance
    exact = [x.double().requires_grad_() for x in inputs]
    y = definition(*exact)
    g = _numbers(*y.shape, dtype=inputs[0].dtype)
    expected = torch.autograd.grad(y, exact, g.double())
    for form in (torch.contiguous_format, torch.channels_last):
        x, *side = (value.to(device) for value in inputs)
        given = [value.requires_grad_() for value in (x.contiguous(memory_format=form), *side)]
        found = op(*given)
        _close("values", found, y, tolerance)
        for number, (mine, right) in enumerate(
            zip(torch.autograd.grad(found, given, g.to(device)), expected, strict=True), start=1
        ):
            _close(f"gradient of operand {number}", mine, right, tolerance)


def _close(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    if found.shape != expected.shape:
        raise ValueError(f"{what}: shape {list(found.shape)} instead of {list(expected.shape)}")
    difference = (found.detach().cpu().double() - expected.detach().double()).abs().max()
    limit = tolerance * float(expected.detach().double().abs().max())
    if not difference <= limit:
        raise ValueError(f"{what}: off by {float(difference):.2g}, {limit:.2g} allowed")


def _activated(u: Tensor, clamp: float | None) -> Tensor:
    y = F.leaky_relu(u, LRELU_SLOPE) * math.sqrt(2)
    return y if clamp is None else y.clamp(-clamp, clamp)


def _map(dtype: torch.dtype) -> Tensor:
    return _numbers(2, 5, 8, 6, dtype=dtype)


def _side(dtype: torch.dtype) -> torch.dtype:
    """Parameters stay in float32 beside maps of 16 bits."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same numbers for every call with these arguments."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + 1)).to(dtype)
