"""Winograd's convolutions of the CPU library: values, derivatives, what they do not depend on, where they are taken."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from backends import backend, launches, native_kernels
from torch import Tensor

from noisegan.ext import build, conv2d, load, params, reference, toolchain, winograd

LAST = torch.channels_last
# Of the sum of the squares: 2 to 3 times plain sums in float32, and as exact as they are when rounded to bfloat16.
EXACT = {torch.float32: 1e-5, torch.bfloat16: 2.5e-3}
SHAPES = [
    # N, channels in, channels out, height, width
    (2, 32, 32, 8, 8),
    (1, 64, 32, 5, 7),
    (3, 32, 96, 1, 9),
    (2, 96, 64, 13, 4),
    (1, 32, 32, 2, 3),
    (5, 64, 64, 20, 12),
    (9, 32, 32, 16, 16),
]


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> load.Kernels:
    """Winograd's way wherever it can be gone."""
    kernels = native_kernels()
    monkeypatch.setattr(winograd, "_dtypes", lambda: (torch.float32, torch.bfloat16))
    monkeypatch.setattr(winograd, "TILE_PIXELS", dict.fromkeys((torch.float32, torch.bfloat16), 0.0))
    return kernels


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def last(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return normal(seed, *shape, dtype=dtype).contiguous(memory_format=LAST)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def three(module: Any, x: Tensor, w: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three operations of `winograd`, or of `reference`."""
    kernels = () if module is reference else (native_kernels(),)
    return (
        module.convolution(*kernels, x, w, 1, 1),
        module.convolution_input(*kernels, g, w, x.shape[2:], 1, 1),
        module.convolution_weight(*kernels, x, g, w.shape[2:], 1, 1),
    )


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_three_operations_are_torchs(
    shape: tuple[int, ...], dtype: torch.dtype, everywhere: load.Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, c, k, h, w = shape
    x, weight, g = last(1, n, c, h, w, dtype=dtype), last(2, k, c, 3, 3, dtype=dtype), last(3, n, k, h, w, dtype=dtype)
    with launches(monkeypatch) as names:
        found = three(winograd, x, weight, g)
    assert names == ["winograd", "winograd", "winograd_weight"]
    plain = three(reference, x, weight, g)
    exact = three(reference, x.double(), weight.double(), g.double())
    for mine, torchs, right in zip(found, plain, exact, strict=True):
        assert (mine.shape, mine.dtype, mine.stride()) == (torchs.shape, torchs.dtype, torchs.stride())
        assert off(mine, right) < EXACT[dtype]


@pytest.mark.parametrize(
    "kind", ["contiguous weights", "transposed weights", "contiguous gradient", "contiguous maps", "strided maps"]
)
def test_operands_may_lie_otherwise(kind: str, everywhere: load.Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, g = last(1, 2, 32, 9, 6), last(2, 64, 32, 3, 3), last(3, 2, 64, 9, 6)
    expected = three(winograd, x, weight, g)
    if kind == "contiguous weights":
        weight = weight.contiguous()
    if kind == "transposed weights":
        weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
    if kind == "contiguous gradient":
        g = g.contiguous()
    if kind == "contiguous maps":
        x, g = x.contiguous(), g.contiguous()
    if kind == "strided maps":
        x, g = (torch.cat([m, m], dim=1).contiguous(memory_format=LAST)[:, : m.shape[1]] for m in (x, g))
    with launches(monkeypatch) as names:
        found = three(winograd, x, weight, g)
    # The gradient of the weights does not see how they lie, and lies as x does.
    assert names == ["winograd"] * 2 + ["winograd_weight"] * (kind not in ("contiguous maps", "strided maps"))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shapes", "rest"),
    [
        ("convolution", ((2, 64, 32, 32), (32, 32, 3, 3)), (1, 1)),
        ("convolution", ((32, 32, 32), (32, 32, 3, 3)), (1, 1)),
        ("convolution_input", ((2, 64, 32, 32), (32, 32, 3, 3)), ((32, 32), 1, 1)),
        ("convolution_input", ((2, 32, 32, 32), (32, 32, 3, 3)), ((40, 40), 1, 1)),
        ("convolution_weight", ((2, 32, 32, 32), (1, 32, 32, 32)), ((3, 3), 1, 1)),
        ("convolution_weight", ((2, 32, 32, 32), (2, 32, 16, 16)), ((3, 3), 1, 1)),
    ],
    ids=str,
)
def test_what_does_not_fit_together_is_refused_as_by_torch(
    name: str, shapes: tuple[tuple[int, ...], ...], rest: tuple[Any, ...], everywhere: load.Kernels
) -> None:
    a, b = (
        normal(1, *shape).to(memory_format=LAST if len(shape) == 4 else torch.contiguous_format) for shape in shapes
    )
    with pytest.raises(RuntimeError) as torchs:
        getattr(reference, name)(a, b, *rest)
    with pytest.raises(RuntimeError) as found:
        getattr(winograd, name)(everywhere, a, b, *rest)
    assert str(found.value) == str(torchs.value)


def test_results_are_where_the_maps_are_whatever_the_default(everywhere: load.Kernels) -> None:
    x, weight, g = last(1, 2, 32, 8, 8), last(2, 32, 32, 3, 3), last(3, 2, 32, 8, 8)
    expected = three(winograd, x, weight, g)
    with torch.device("meta"):
        found = three(winograd, x, weight, g)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_result_depends_on_the_batch_or_the_threads(everywhere: load.Kernels) -> None:
    """Samples of 9 tiles fill neither groups nor rows evenly. Weights' gradients are sums over the batch."""
    x, weight, g = last(1, 31, 64, 9, 12), last(2, 32, 64, 3, 3), last(3, 31, 32, 9, 12)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(three(winograd, x, weight, g))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    for index in (0, 7, 30):
        alone = three(winograd, x[index : index + 1], weight, g[index : index + 1])
        assert torch.equal(alone[0][0], results[0][0][index])
        assert torch.equal(alone[1][0], results[0][1][index])


def test_results_past_the_caches_are_those_of_each_sample_alone(everywhere: load.Kernels) -> None:
    x, weight = last(1, 5, 32, 122, 118), last(2, 32, 32, 3, 3)
    y = winograd.convolution(everywhere, x, weight, 1, 1)
    assert y.nbytes >= 8 << 20 > y[0].nbytes
    for one, alone in zip(y, x.split(1), strict=True):
        assert torch.equal(one, winograd.convolution(everywhere, alone, weight, 1, 1)[0])


def test_weights_gradients_go_on_from_chunk_to_chunk(everywhere: load.Kernels) -> None:
    """One tile more than a chunk, and several chunks."""
    for n in (winograd.CHUNK + 1, 3 * winograd.CHUNK):
        x, g = last(1, n, 32, 4, 4), last(2, n, 32, 4, 4)
        found = winograd.convolution_weight(everywhere, x, g, (3, 3), 1, 1)
        assert off(found, reference.convolution_weight(x.double(), g.double(), (3, 3), 1, 1)) < 1e-5


def test_not_a_number_is_not_lost(everywhere: load.Kernels) -> None:
    """It spreads over its tiles, which hold all that it would have reached."""
    x, weight = last(1, 1, 32, 12, 12), last(2, 32, 32, 3, 3)
    x[0, 3, 5, 6] = torch.nan
    missing = winograd.convolution(everywhere, x, weight, 1, 1).isnan()
    assert missing[:, :, 4:7, 5:8].all()
    assert not missing[:, :, :, 8:].any()
    assert not missing[:, :, 8:].any()


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_first_and_second_derivatives(
    dtype: torch.dtype, everywhere: load.Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As R1 takes them: of a gradient's square, in maps and weights."""

    def derivatives(x: Tensor, w: Tensor, convolve: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        y = convolve(x, w)
        gx, gw = torch.autograd.grad((y * y).sum(), (x, w), create_graph=True)
        return [y, gx, gw, *torch.autograd.grad((gx * gx).sum() + (gw * gw).sum(), (x, w))]

    x, w = last(1, 2, 32, 8, 12, dtype=dtype), last(2, 32, 32, 3, 3, dtype=dtype) / 17
    with launches(monkeypatch) as names, backend("native"):
        found = derivatives(x.requires_grad_(), w.requires_grad_(), lambda x, w: conv2d(x, w, padding=1))
    assert set(names) == {"winograd", "winograd_weight"}
    exact = [v.detach().double().requires_grad_() for v in (x, w)]
    expected = derivatives(exact[0], exact[1], lambda x, w: F.conv2d(x, w, padding=1))
    for mine, right in zip(found, expected, strict=True):
        assert off(mine.detach(), right.detach()) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize(
    ("n", "channels", "side", "dtype", "taken"),
    [
        (16, 64, 64, torch.float32, True),
        (16, 256, 8, torch.float32, True),
        (1, 256, 16, torch.float32, True),
        (1, 256, 8, torch.float32, False),
        (16, 48, 64, torch.float32, False),
        (16, 64, 5, torch.float32, False),
        (0, 64, 64, torch.float32, False),
        (16, 64, 64, torch.bfloat16, True),
        (16, 256, 8, torch.bfloat16, False),
        (16, 64, 64, torch.float16, False),
        (2, 64, 64, torch.float64, False),
    ],
)
def test_it_is_taken_where_it_was_measured_to_be_faster(
    n: int, channels: int, side: int, dtype: torch.dtype, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "_dtypes", lambda: (torch.float32, torch.bfloat16))
    x = torch.zeros(n, channels, side, side, dtype=dtype).contiguous(memory_format=LAST)
    weight = torch.zeros(channels, channels, 3, 3, dtype=dtype).contiguous(memory_format=LAST)
    ways = [
        (x, weight, channels, (3, 3), 1, 1),
        (x, x, channels, (3, 3), 1, 1),
    ]
    assert [winograd._pays(SimpleNamespace(convolves=True), *way) for way in ways] == [taken] * 2  # type: ignore[arg-type]
    for other in (
        (x, weight, channels, (3, 3), 2, 1),
        (x, weight, channels, (3, 3), 1, 0),
        (x, weight, channels, (1, 1), 1, 1),
        (x, weight, channels + 1, (3, 3), 1, 1),
        (x, weight.to(torch.float16 if dtype != torch.float16 else torch.float32), channels, (3, 3), 1, 1),
    ):
        assert not winograd._pays(SimpleNamespace(convolves=True), *other)  # type: ignore[arg-type]
    assert not winograd._pays(SimpleNamespace(convolves=False), *ways[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("x86_64", ["avx2"], (torch.float32, torch.bfloat16)),
        ("x86_64", ["avx512f", "amx_bf16"], (torch.float32,)),
        ("AMD64", ["avx512_bf16"], (torch.float32, torch.bfloat16)),
        ("aarch64", ["asimd"], ()),
    ],
)
def test_dtypes_by_processor(
    machine: str, features: list[str], expected: tuple[torch.dtype, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd.platform, "machine", lambda: machine)
    monkeypatch.setattr(toolchain, "processor_features", lambda: features)
    winograd._dtypes.cache_clear()
    try:
        assert winograd._dtypes() == expected
    finally:
        winograd._dtypes.cache_clear()


def test_the_library_has_those_constants() -> None:
    text = (Path(winograd.__file__).parent / "csrc" / "cpu_winograd.h").read_text()
    for name, value in (("kColumns", winograd.WIDTH), ("kTileChunk", winograd.CHUNK)):
        assert re.findall(rf"constexpr i64 {name} = (\d+);", text) == [str(value)]


@pytest.mark.skipif(build.platform.machine() != "x86_64", reason="flags of x86")
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
def test_narrower_vectors(processor: str, tmp_path: Path, everywhere: load.Kernels) -> None:
    """Blocks of matrices have other shapes there. To float tolerance: without fused multiply-adds sums differ."""
    compiler = next(toolchain.compilers())
    library = tmp_path / "narrow.so"
    flags = [flag for flag in build.CPU_FLAGS if not flag.startswith(("-march", "-mprefer"))]
    source = str(build.CSRC / "cpu_convolution.cpp")
    subprocess.run([*compiler.command, *flags, f"-march={processor}", "-shared", "-o", library, source], check=True)
    functions = ctypes.CDLL(str(library))

    def launch(what: ctypes.Structure, dtype: torch.dtype, device: torch.device) -> None:
        getattr(functions, f"noisegan_{params.CPU_KERNELS[type(what)]}")(ctypes.byref(what), params.DTYPES[dtype])

    kernels: Any = SimpleNamespace(convolves=True, launch=launch)
    for dtype in EXACT:
        x, weight, g = (
            last(1, 3, 64, 9, 7, dtype=dtype),
            last(2, 32, 64, 3, 3, dtype=dtype),
            last(3, 3, 32, 9, 7, dtype=dtype),
        )
        found = (
            winograd.convolution(kernels, x, weight, 1, 1),
            winograd.convolution_input(kernels, g, weight, x.shape[2:], 1, 1),
            winograd.convolution_weight(kernels, x, g, (3, 3), 1, 1),
        )
        for mine, right in zip(found, three(reference, x.double(), weight.double(), g.double()), strict=True):
            assert off(mine, right) < EXACT[dtype]
