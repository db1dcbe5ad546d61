"""Compiles csrc/kernels.cu in this process, with the NVRTC that torch brings: no nvcc, no host compiler, seconds.

image = compile_image((9, 0))      # kept in the cache for next time
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from noisegan.ext import toolchain
from noisegan.ext.build import CSRC, BuildError, cached, sources_digest, torch_parts
from noisegan.ext.cache import BUILD_LOG
from noisegan.ext.cuda import bindings

FLAGS = ("--std=c++17",)


def version() -> str:
    """The version of NVRTC, such as 13.0.

    Raises:
        BuildError: when there is none.
    """
    major, minor = _call(_nvrtc(), "nvrtcVersion")
    return f"{major}.{minor}"


def compile_image(capability: tuple[int, int]) -> bytes:
    """The kernels for GPUs of a compute capability such as (9, 0); raises as `cuda_image`."""
    return cuda_image(capability).read_bytes()


def cuda_image(capability: tuple[int, int]) -> Path:
    """The file of these kernels, made if need be, without a GPU: a cubin, or PTX for GPUs newer than this NVRTC.

    Raises:
        BuildError: when NVRTC or CUDA's headers are missing, the GPU is too old, or the compiler refuses the text.
    """
    target = target_of(capability)
    flags = (*FLAGS, f"--gpu-architecture={target}")
    key = {
        "sources": sources_digest(".cu", ".cuh", ".h"),
        "flags": " ".join(flags),
        "architecture": target,
        "compiler": f"NVRTC {version()}",
        **torch_parts(),
    }
    filename = f"nvrtc_{target}.image"

    def make(folder: Path) -> None:
        (folder / filename).write_bytes(compile_text(CSRC / "kernels.cu", flags, folder / BUILD_LOG))

    return cached(key, filename, make)


def target_of(capability: tuple[int, int]) -> str:
    """`sm_90` for a GPU that this NVRTC knows, `compute_90` (PTX, which the driver finishes) for a newer one.

    Raises:
        BuildError: when the GPU is older than all that NVRTC knows.
    """
    (known,) = _call(_nvrtc(), "nvrtcGetSupportedArchs")
    wanted = capability[0] * 10 + capability[1]
    if wanted in known:
        return f"sm_{wanted}"
    older = [architecture for architecture in known if architecture < wanted]
    if not older:
        raise BuildError(
            f"a GPU of compute capability {capability[0]}.{capability[1]} is older than NVRTC {version()} compiles for "
            f"({min(known) // 10}.{min(known) % 10}); use a torch built for an older CUDA"
        )
    return f"compute_{max(older)}"


def compile_text(source: Path, flags: tuple[str, ...], log: Path) -> bytes:
    """Compile a file; what the compiler says goes to `log`.

    Raises:
        BuildError: when it does not compile; with the first error.
    """
    nvrtc = _nvrtc()
    folders = (source.parent, _headers())
    options = [os.fsencode(option) for option in (*flags, *(f"--include-path={folder}" for folder in folders))]
    (program,) = _call(nvrtc, "nvrtcCreateProgram", source.read_bytes(), os.fsencode(source.name), 0, [], [])
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        said = _output(nvrtc, program, "nvrtcGetProgramLog").decode(errors="replace").strip("\0\n")
        log.write_text(said + "\n", encoding="utf-8")
        if int(status) != 0:
            errors = [line for line in said.splitlines() if "error" in line]
            reason = " ".join((errors or said.splitlines() or ["it said nothing"])[0].split())
            raise BuildError(f"noisegan's CUDA operations could not be compiled by NVRTC {version()}: {reason}")
        kind = "nvrtcGetPTX" if any("=compute_" in flag for flag in flags) else "nvrtcGetCUBIN"
        return _output(nvrtc, program, kind)
    finally:
        _call(nvrtc, "nvrtcDestroyProgram", program)


def _headers() -> Path:
    """The folder of cuda_fp16.h: of the packages that came with torch, else of a CUDA toolkit.

    Raises:
        BuildError: when there is none.
    """
    for folder in _header_folders():
        if (folder / "cuda_fp16.h").is_file() and (folder / "cuda_bf16.h").is_file():
            return folder
    raise BuildError(
        "CUDA's headers (cuda_fp16.h) are missing; pip install nvidia-cuda-runtime, or set CUDA_HOME to a CUDA toolkit"
    )


def _header_folders() -> Iterator[Path]:
    packages = importlib.util.find_spec("nvidia")
    major = (torch.version.cuda or "").partition(".")[0]
    for place in (packages.submodule_search_locations or []) if packages else []:
        yield Path(place) / f"cu{major}" / "include"  # CUDA 13 and later
        yield Path(place) / "cuda_runtime" / "include"  # CUDA 12
    nvcc = toolchain.cuda_toolkit()
    if nvcc is not None:
        yield Path(nvcc.command[0]).parent.parent / "include"


def _nvrtc() -> Any:
    return bindings("nvrtc")


def _call(nvrtc: Any, name: str, *arguments: Any) -> tuple[Any, ...]:
    """What a function of NVRTC returns.

    Raises:
        BuildError: when it fails, or the library is not there.
    """
    try:
        status, *results = getattr(nvrtc, name)(*arguments)
    except RuntimeError as error:  # of the package that looks for the library
        raise BuildError(f"NVRTC cannot be loaded: {str(error).splitlines()[0]}") from error
    if int(status) != 0:
        _, text = nvrtc.nvrtcGetErrorString(status)
        raise BuildError(f"{name} failed: {text.decode()}")
    return tuple(results)


def _output(nvrtc: Any, program: Any, name: str) -> bytes:
    size: int = _call(nvrtc, f"{name}Size", program)[0]
    content = bytearray(size)
    _call(nvrtc, name, program, content)
    return bytes(content)
