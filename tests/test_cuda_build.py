"""The CUDA kernels compile for every kind of GPU, without spilling registers: by nvcc, and by NVRTC in this process."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from noisegan.ext import build, nvrtc, toolchain
from noisegan.ext.build import CSRC, NVCC_FLAGS, BuildError
from noisegan.ext.params import DTYPES, KERNELS, Philox

NVCC_ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
NVRTC_ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
REGISTERS = {"bias_act": 64, "bias_act_grad": 80, "channel_sum": 64, "upfirdn2d": 80, "philox": 64}
"""Of a thread at most, as kernels.cu demands by its launch bounds; float64 may take 128."""

ENTRIES = {
    "noisegan_philox",
    *(
        f"noisegan_{kernel}_{str(dtype).removeprefix('torch.')}"
        for struct, kernel in KERNELS.items()
        for dtype in DTYPES
        if struct is not Philox
    ),
}

needs_nvrtc = pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None, reason="this torch comes without cuda-bindings"
)


def registers(said: str) -> dict[str, int]:
    """Registers of each function that the assembler reports with -v; asserts that none spills or has a stack."""
    for function, frame in re.findall(r"Function properties for (\S+)\s*\n\s*(.*)", said):
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in frame, (function, frame)
    compiled = re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", said, re.DOTALL)
    return {name: int(count) for name, count in compiled}


def assert_within_limits(found: dict[str, int]) -> None:
    for name, count in found.items():
        kernel = next(kernel for kernel in sorted(REGISTERS, key=len, reverse=True) if kernel in name)
        assert count <= (128 if name.endswith("float64") else REGISTERS[kernel]), (name, count)


needs_nvcc = pytest.mark.skipif(toolchain.cuda_toolkit() is None, reason="there is no nvcc")


@pytest.mark.slow
@needs_nvcc
def test_nvcc_compiles_every_kernel_within_its_registers(tmp_path: Path) -> None:
    def compiled(architecture: str) -> str:
        nvcc = toolchain.cuda_toolkit()
        assert nvcc is not None
        command = [*nvcc.command, *NVCC_FLAGS, f"-arch={architecture}", "-Xptxas", "-v", "--Werror", "all-warnings"]
        command += ["-o", str(tmp_path / architecture), str(CSRC / "kernels.cu")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    with ThreadPoolExecutor(2) as pool:
        for said in pool.map(compiled, NVCC_ARCHITECTURES):
            found = registers(said)
            assert set(found) == ENTRIES
            assert_within_limits(found)


@needs_nvcc
@pytest.mark.parametrize("place", ["relative", "the $cache: 'here'", "$(false)"])
def test_nvcc_builds_into_a_cache_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """nvcc hands the folder of what it needs in between to a shell."""
    (tmp_path / "kernels.cu").write_text('extern "C" __global__ void small(int* x) { *x = 1; }\n', encoding="utf-8")
    monkeypatch.setattr(build, "CSRC", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISEGAN_CACHE", place)
    path = build.cuda_image((9, 0))
    assert path.is_relative_to(tmp_path / place)
    assert path.read_bytes().startswith(b"\x7fELF")
    assert {file.name for file in path.parent.iterdir()} == {
        *(path.name, "key.json", "build.log", "build.ninja", ".ninja_log")
    }


@needs_nvrtc
@pytest.mark.parametrize("architecture", NVRTC_ARCHITECTURES)
def test_nvrtc_compiles_the_same_text(tmp_path: Path, architecture: str) -> None:
    """One type for most architectures, to save time: nvcc has compiled the others."""
    text = (CSRC / "kernels.cu").read_text(encoding="utf-8")
    entries = ENTRIES
    if architecture != "sm_75":
        text = re.sub(r"  NG_ENTRY\(KERNEL, PARAMS, \w+, (?!float16)\w+, \w+\) *\\\n", "", text)
        entries = {name for name in ENTRIES if name.endswith(("_float16", "philox"))}
    source = tmp_path / "kernels.cu"
    source.write_text(text, encoding="utf-8")
    flags = (*nvrtc.FLAGS, f"--include-path={CSRC}", f"--gpu-architecture={architecture}", "--ptxas-options=-v")
    image = nvrtc.compile_text(source, flags, tmp_path / "log")
    found = registers((tmp_path / "log").read_text())
    assert set(found) == entries
    assert_within_limits(found)
    assert image.startswith(b"\x7fELF")
    for name in entries:
        assert name.encode() in image


@needs_nvrtc
def test_the_target_of_nvrtc_follows_the_age_of_the_gpu() -> None:
    assert nvrtc.target_of((9, 0)) == "sm_90"
    assert nvrtc.target_of((99, 0)).startswith("compute_1")
    with pytest.raises(
        BuildError, match=r"compute capability 3\.5 is older than NVRTC .* compiles for \(7\.5\); use a"
    ):
        nvrtc.target_of((3, 5))


@needs_nvrtc
def test_an_image_is_compiled_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path))
    compiled: list[tuple[str, ...]] = []

    def compile_text(source: Path, flags: tuple[str, ...], log: Path) -> bytes:
        compiled.append(flags)
        return b"image"

    monkeypatch.setattr(nvrtc, "compile_text", compile_text)
    assert nvrtc.compile_image((9, 0)) == nvrtc.compile_image((9, 0)) == b"image"
    assert nvrtc.compile_image((8, 0)) == b"image"
    assert compiled == [(*nvrtc.FLAGS, "--gpu-architecture=sm_90"), (*nvrtc.FLAGS, "--gpu-architecture=sm_80")]


@needs_nvrtc
def test_ptx_is_made_for_gpus_that_are_newer_than_nvrtc(tmp_path: Path) -> None:
    source = tmp_path / "small.cu"
    source.write_text('#include "params.h"\nextern "C" __global__ void small(i64* x) { *x = 1; }\n', encoding="utf-8")
    image = nvrtc.compile_text(source, (f"--include-path={CSRC}", "--gpu-architecture=compute_80"), tmp_path / "log")
    assert b".visible .entry small" in image
    assert image.endswith(b"\0")  # as the driver wants text


@needs_nvrtc
def test_the_first_error_is_told_and_the_log_kept(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text("__global__ void wrong() { nothing(); }\n", encoding="utf-8")
    message = r'could not be compiled by NVRTC .*: wrong.cu\(1\): error: identifier "nothing" is undefined'
    with pytest.raises(BuildError, match=message):
        nvrtc.compile_text(source, ("--gpu-architecture=sm_80",), tmp_path / "log")
    assert "1 error detected" in (tmp_path / "log").read_text()


@needs_nvrtc
def test_missing_headers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_header_folders", lambda: iter([tmp_path]))
    with pytest.raises(
        BuildError, match=r"CUDA's headers \(cuda_fp16.h\) are missing; pip install nvidia-cuda-runtime"
    ):
        nvrtc.compile_text(CSRC / "kernels.cu", (), tmp_path / "log")


@pytest.mark.parametrize(
    ("cuda", "package"), [("12.8", "cuda-bindings~=12.0"), ("13.0", "cuda-bindings~=13.0"), (None, "cuda-bindings")]
)
def test_without_cuda_bindings_the_cure_is_named(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, package: str
) -> None:
    """In the major version of torch's CUDA: that for another looks for another NVRTC."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(BuildError) as error:
        nvrtc.version()
    assert str(error.value) == f"the package cuda-bindings is missing; pip install {package}"
