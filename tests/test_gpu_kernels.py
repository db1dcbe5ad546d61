"""The CUDA kernels on a GPU: the cases of the emulator, gradients, threads, other devices, streams and graphs."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from op_cases import CASES, DTYPES, assert_close
from torch import Tensor

from noisegan.ext import host, load, reference
from noisegan.ext.functional import LRELU_SLOPE, DrawnNoise, bias_act, noise_bias_act, philox_normal, upfirdn2d
from noisegan.ext.toolchain import cuda_toolkit

pytestmark = pytest.mark.gpu

BILINEAR = (1.0, 3.0, 3.0, 1.0)
STREAM, STRENGTH, CLAMP = ((1, 2), 3), 0.3, 2.0


@pytest.fixture(params=["nvrtc", "native"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[host.Kernels]:
    """Both ways to an image; the reference in its place would hide a fault, so what cannot be had fails.

    What is compiled ahead needs a CUDA toolkit, which many machines do without.
    """
    if request.param == "native" and cuda_toolkit() is None:
        pytest.skip("needs a CUDA toolkit (nvcc)")
    monkeypatch.setenv("NOISEGAN_EXT", request.param)
    load.forget()
    kernels = load.kernels_for("cuda")
    assert kernels is not None
    assert kernels.name == request.param
    yield kernels
    load.forget()


def on_gpu(values: tuple[Any, ...]) -> list[Any]:
    return [value.cuda() if isinstance(value, Tensor) else value for value in values]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_equal_their_plain_twins(kernels: host.Kernels, dtype: torch.dtype) -> None:
    for case in CASES:
        arguments = case.arguments(dtype)
        found = getattr(host, case.op)(kernels, *on_gpu(arguments))
        found = found.cpu() if isinstance(found, Tensor) else [part.cpu() for part in found]
        assert_close(found, getattr(reference, case.op)(*arguments), dtype, case)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [4, 64, 256])
def test_large_maps_and_gradients_agree_with_the_cpu(
    kernels: host.Kernels, layout: torch.memory_format, size: int
) -> None:
    def run(device: str) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        x, b, scale = (torch.randn(shape, generator=generator) for shape in ((4, 48, size, size), (48,), (4, 48)))
        x = away_from_corners(x, b, scale)
        x = x.to(device, memory_format=layout).requires_grad_()
        b, scale = (t.to(device).requires_grad_() for t in (b, scale))
        strength = torch.tensor(STRENGTH, device=device, requires_grad=True)
        noise = DrawnNoise(*STREAM, torch.arange(4, device=device))
        f = torch.tensor(BILINEAR, device=device) / 8
        y = noise_bias_act(x, noise, strength, b, clamp=CLAMP, scale=scale)
        y = upfirdn2d(upfirdn2d(y, f, up=2, padding=(2, 1, 2, 1), gain=4.0), f, down=2, padding=(1, 1, 1, 1))
        gradients = torch.autograd.grad((y * y).mean(), (x, b, scale, strength), create_graph=True)
        (second,) = torch.autograd.grad(sum(g.square().sum() for g in gradients), x)  # type: ignore[arg-type]
        return [t.detach().cpu() for t in (y, *gradients, second)]

    for a, b in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def away_from_corners(x: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """x moved a little where rounding could put it on the other side of the activation's kink or clamp."""
    e = philox_normal(*STREAM, torch.arange(len(x)), x[0, 0].numel()).view(len(x), 1, *x.shape[2:])
    factor = scale[:, :, None, None]
    u = x * factor + STRENGTH * e + b[:, None, None]
    corners = (0.0, CLAMP / math.sqrt(2), -CLAMP / math.sqrt(2) / LRELU_SLOPE)
    near = torch.stack([(u - corner).abs() < 1e-3 for corner in corners]).any(dim=0)
    return torch.where(near, x + 0.01 / factor, x)


def test_maps_with_more_than_2_31_elements(kernels: host.Kernels) -> None:
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GB of free memory")
    x = torch.zeros(2, 1100, 1024, 1024, device="cuda", dtype=torch.bfloat16)
    x[1, -1, -1, -3:] = torch.tensor([1.0, -1.0, 2.0], device="cuda")
    assert bias_act(x, gain=1.0)[1, -1, -1, -3:].tolist() == pytest.approx([1.0, -0.2, 2.0], rel=0.01)


def test_a_thread_that_is_new_to_the_gpu_can_launch(kernels: host.Kernels) -> None:
    x = torch.randn(2, 3, 4, 4, device="cuda")
    results: list[Tensor] = []
    thread = threading.Thread(target=lambda: results.append(bias_act(x)))
    thread.start()
    thread.join()
    torch.testing.assert_close(results[0], bias_act(x))


def test_steps_can_be_captured_into_a_graph(kernels: host.Kernels) -> None:
    x, b = torch.randn(2, 8, 16, 16, device="cuda"), torch.randn(8, device="cuda")
    bias_act(x, b)  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = bias_act(x, b)
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(y, bias_act(x, b))


def test_work_goes_to_the_current_stream(kernels: host.Kernels) -> None:
    x = torch.zeros(8, 64, 256, 256, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(50):
            x = x + 1
        y = bias_act(x, gain=1.0)
    stream.synchronize()
    assert float(y.min()) == 50.0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_gpu_of_the_tensor_is_used_whatever_is_current(kernels: host.Kernels) -> None:
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(bias_act(x.to("cuda:1")).cpu(), bias_act(x.to("cuda:0")).cpu())
    assert torch.cuda.current_device() == 0
