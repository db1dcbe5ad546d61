"""`noisegan doctor` and `noisegan ext`: what they print, their JSON, their exit status."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

import noisegan
from noisegan.cli import cli
from noisegan.errors import NoiseganError
from noisegan.ext import bias_act, build, cache, doctor, load, nvrtc, toolchain, upfirdn2d

OPS = [
    *("bias_act", "conv2d", "conv_transpose2d", "noise_bias_act"),
    *("philox_bits", "philox_normal", "philox_uniform", "scale_channels", "upfirdn2d"),
]
COMPILER = next(toolchain.compilers(), None)


@pytest.fixture(autouse=True)
def _choose_anew() -> Iterator[None]:
    load.forget()
    yield
    load.forget()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny source in place of the real ones, and a cache of its own."""
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(build, "CSRC", tmp_path)
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cpu.cpp").write_text("int nothing;")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_doctor_tells_all_there_is() -> None:
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert [line for line in result.output.splitlines() if not line.startswith(" ")] == [
        "Versions",
        "Devices",
        "Tools",
        "Cache",
        f"Backends (NOISEGAN_EXT={os.environ.get('NOISEGAN_EXT') or 'auto'})",
        "Self-tests: values and first derivatives",
        (line := result.output.splitlines()[-1]),
    ]
    total = len(OPS) * (1 + torch.cuda.device_count())
    assert line == f"{total} of {total} operations are right"
    for text in (noisegan.__version__, torch.__version__, str(cache.folder()), "threads: 1", toolchain.processor()):
        assert text in result.output
    for name in OPS:
        assert f"  pass  {name:16}  cpu " in result.output


def test_doctor_in_json() -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert list(found) == ["versions", "devices", "tools", "cache", "NOISEGAN_EXT", "backends", "self_tests"]
    cpu = found["devices"][0]
    assert set(cpu) == {"device", "name", "threads", "capability", "features"}
    assert found["backends"]["cpu"] == {"backend": load.backend_of("cpu"), "why": load.choose("cpu").why}
    assert found["tools"]["compilers"] == [str(tool) for tool in toolchain.compilers()]
    assert sorted(test["op"] for test in found["self_tests"] if test["device"] == "cpu") == OPS
    for test in found["self_tests"]:
        assert test["passed"]
        assert test["backend"] == found["backends"][test["device"]]["backend"]
    if COMPILER is not None and "NOISEGAN_EXT" not in os.environ:
        assert found["backends"]["cpu"]["backend"] == "native"
        [entry] = [e for e in found["cache"]["entries"] if e["file"] == str(build.cpu_library())]
        assert entry["key"]["torch"] == torch.__version__
        assert 0 < entry["bytes"] <= found["cache"]["bytes"]


def test_doctor_tells_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(device: torch.device) -> load.Choice:
        if str(device) == "cuda:1":
            raise NoiseganError("no NVRTC")
        return load.Choice(None, f"of {device}")

    monkeypatch.setattr(load, "choose", choose)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(doctor, "_describe", lambda device: {"device": str(device), "name": "one"})
    monkeypatch.setattr(doctor, "self_tests", lambda device, backend, why: [])
    lines = run("doctor").output.splitlines()
    start = lines.index(f"Backends (NOISEGAN_EXT={os.environ.get('NOISEGAN_EXT') or 'auto'})")
    assert lines[start + 1 : start + 4] == [
        "  cpu     reference: of cpu",
        "  cuda:0  reference: of cuda:0",
        "  cuda:1  ERROR: no NVRTC",
    ]


def _small_error(x: Tensor, *arguments: object, **options: object) -> Tensor:
    return bias_act(x, *arguments, **options) * 1.0001  # type: ignore[arg-type]


def _wrong_derivative(x: Tensor, *arguments: object, **options: object) -> Tensor:
    y = upfirdn2d(x, *arguments, **options)  # type: ignore[arg-type]
    return y + (y - y.detach()) * 0.02


def _wrong_layout(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale[:, :, None, None] if x.is_contiguous() else x.clone()


def _broken(*arguments: object, **options: object) -> Tensor:
    raise RuntimeError("CUDA error:\n  no kernel image")


@pytest.mark.parametrize(
    ("op", "mutant", "detail"),
    [
        ("bias_act", _small_error, "float32: values: off by "),
        ("upfirdn2d", _wrong_derivative, "float32: gradient of operand 1: off by "),
        ("scale_channels", _wrong_layout, "float32: values: off by "),
        ("noise_bias_act", _broken, "float32: CUDA error: no kernel image"),
    ],
)
def test_an_operation_that_is_wrong_is_seen(
    monkeypatch: pytest.MonkeyPatch, op: str, mutant: object, detail: str
) -> None:
    monkeypatch.setattr(doctor, op, mutant)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    result = run("doctor")
    assert result.exit_code == 1
    [line] = [line for line in result.output.splitlines() if "FAIL" in line]
    assert line.split()[1] == op
    assert detail in line
    assert result.output.splitlines()[-1] == "8 of 9 operations are right"


def test_doctor_shows_what_noisegan_cannot_run_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(load.VARIABLE, "fast")
    result = run("doctor")
    assert result.exit_code == 1
    why = "NOISEGAN_EXT=fast is none of auto, native, nvrtc, ref; set it to one of these or unset it"
    assert f"  cpu  ERROR: {why}\n" in result.output
    assert result.output.count(f"none       {why}\n") == len(OPS) * (1 + torch.cuda.device_count())


def test_build_and_clean(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    result = run("ext", "build")
    assert result.exit_code == 0, result.output
    name, rest = result.stdout.strip().split("  ", 1)
    path, seconds = rest.rsplit("  ", 1)
    assert name == "CPU"
    assert Path(path) == build.cpu_library()
    assert seconds.endswith(" s")
    size = cache.entries()[0].size
    assert run("ext", "clean").output == f"removed 1 build, {size / 1e6:.1f} MB, from {cache.folder()}\n"
    assert not Path(path).exists()
    assert run("ext", "clean").output == f"removed 0 builds, 0.0 MB, from {cache.folder()}\n"


def test_build_for_gpus(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def image(capability: tuple[int, int]) -> Path:
        asked.append(capability)
        return cache.folder() / "image"

    monkeypatch.setattr(build, "cuda_image", image)
    monkeypatch.setattr(toolchain, "cuda_toolkit", lambda: toolchain.Tool(("nvcc",), "13.0"))
    result = run("ext", "build", "--arch", "sm_80", "--arch", "12.0")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["CPU", "sm_80", "sm_120"]
    assert asked == [(8, 0), (12, 0)]
    assert " by nvcc  " in result.stdout
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    run("ext", "build")
    assert asked[2:] == [(9, 0)]
    monkeypatch.setattr(toolchain, "cuda_toolkit", lambda: None)
    assert "CUDA  nothing to do: there is no nvcc, NVRTC is used\n" in run("ext", "build").stdout
    assert len(asked) == 3


def test_without_nvcc_nvrtc_builds_for_an_architecture_that_is_named(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_text(source: Path, flags: tuple[str, ...], log: Path) -> bytes:
        return flags[-1].encode()

    (sources / "kernels.cu").write_text("// kernels")
    monkeypatch.setattr(toolchain, "cuda_toolkit", lambda: None)
    monkeypatch.setattr(nvrtc, "version", lambda: "13.0")
    monkeypatch.setattr(nvrtc, "target_of", lambda capability: "sm_90")
    monkeypatch.setattr(nvrtc, "compile_text", compile_text)
    result = run("ext", "build", "--arch", "sm_90")
    assert result.exit_code == 0, result.output
    name, path, _ = result.stdout.splitlines()[1].split("  ")
    assert name == "sm_90 by NVRTC, as there is no nvcc"
    assert Path(path).read_bytes() == b"--gpu-architecture=sm_90"
    monkeypatch.setattr(nvrtc, "compile_text", None)  # the first use on a GPU finds it
    assert nvrtc.compile_image((9, 0)) == b"--gpu-architecture=sm_90"
    monkeypatch.setattr(build, "built_cuda_image", lambda capability: Path(path))  # on another machine
    assert run("ext", "build", "--arch", "sm_90").stdout.splitlines()[1].startswith("sm_90 by nvcc  ")


def test_build_goes_on_after_a_failure_and_tells_it(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sources / "cpu.cpp").write_text("broken")
    monkeypatch.setattr(toolchain, "cuda_toolkit", lambda: toolchain.Tool(("nvcc",), "13.0"))
    monkeypatch.setattr(build, "cuda_image", lambda capability: cache.folder() / "image")
    result = run("ext", "build", "--arch", "90")
    assert result.stdout.startswith("sm_90 by nvcc  ")
    assert isinstance(result.exception, NoiseganError)
    assert str(result.exception).startswith("CPU: noisegan's operations could not be compiled by ")
    refused = run("ext", "build", "--arch", "hopper").exception
    assert isinstance(refused, NoiseganError)
    assert "'hopper' is no GPU architecture" in str(refused)


def test_build_refuses_to_build_for_nothing(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "cpu_library", lambda: Path("/tmp/noisegan-private/lib.so"))
    refused = run("ext", "build").exception
    assert isinstance(refused, NoiseganError)
    assert str(refused) == f"CPU: nothing was kept, since {cache.folder()} cannot be written; set NOISEGAN_CACHE"
