"""Builds the native operations with ninja, once per key: sources, flags, architecture, torch, CUDA, compiler.

No header of torch is involved, so a build takes seconds and its result outlives an upgrade of torch; the version is in
the key all the same, so that nobody has to think about it.

    library = cpu_library()               # csrc/cpu*.cpp -> libnoisegan_cpu.so
    image = cuda_image((9, 0))            # csrc/kernels.cu -> kernels_sm_90.cubin
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from noisegan.errors import NoiseganError
from noisegan.ext import toolchain
from noisegan.ext.cache import BUILD_LOG, BuildError, cached, digest, find, no_space
from noisegan.ext.toolchain import Tool

__all__ = [
    "CSRC",
    "BuildError",
    "built_cuda_image",
    "cached",
    "cpu_library",
    "cuda_image",
    "parse_architecture",
    "sources_digest",
    "torch_parts",
]

CSRC = Path(__file__).parent / "csrc"
CPU_FLAGS: tuple[str, ...] = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-fopenmp",
)
if platform.machine().lower() in ("x86_64", "amd64"):
    CPU_FLAGS += ("-mprefer-vector-width=512",)  # left alone, compilers keep to 256 bits: up to 1.5 times slower
MAC_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC")  # Apple's clang has no OpenMP
NVCC_FLAGS = ("-cubin", "-std=c++17", "-O3")
CPU_LIBRARY = "libnoisegan_cpu.so"

_LOG = logging.getLogger("noisegan")


def cpu_library() -> Path:
    """The CPU operations as a shared library for this processor, built if need be.

    Raises:
        BuildError: when there is nothing to build with, or it fails.
    """
    if sys.platform == "win32":
        raise BuildError("noisegan's CPU operations are not built on Windows; WSL has them")
    flags = MAC_FLAGS if sys.platform == "darwin" else CPU_FLAGS
    key = {
        "sources": sources_digest(".cpp", ".h"),
        "flags": shlex.join(flags),
        "architecture": toolchain.processor(),
        **torch_parts(),
    }
    failure = None
    for compiler in toolchain.compilers():
        try:
            return cached(
                key | {"compiler": " ".join((compiler.version, *compiler.command[1:]))},
                CPU_LIBRARY,
                lambda folder, compiler=compiler: _build_cpu(folder, compiler, flags),  # type: ignore[misc]
            )
        except BuildError as error:
            failure = failure or error
    prebuilt = find(CPU_LIBRARY, key)
    if prebuilt is not None:
        return prebuilt
    raise failure or BuildError(_no_compiler())


def cuda_image(capability: tuple[int, int]) -> Path:
    """The CUDA operations as an image for GPUs of a compute capability such as (9, 0), built by nvcc if need be.

    Raises:
        BuildError: when it must be built and there is nothing to build with, or it fails.
    """
    built = built_cuda_image(capability)
    if built is not None:
        return built
    filename, flags, key = _cuda_plan(capability)
    nvcc = toolchain.cuda_toolkit()
    if nvcc is None:
        raise BuildError(
            "there is no CUDA toolkit with bin/nvcc and include/cuda_runtime.h; install one or set CUDA_HOME to its "
            "folder"
        )

    def make(folder: Path) -> None:
        _LOG.warning("noisegan: building its CUDA operations for %s (once, some seconds) ...", key["architecture"])
        rule = _rule("cuda", [*nvcc.command, *flags, "-o"], "$out $in")
        _run_ninja(folder, rule + _edge(filename, "cuda", [CSRC / "kernels.cu"]), f"nvcc {nvcc.version}")

    return cached(key | {"compiler": f"nvcc {nvcc.version}"}, filename, make)


def built_cuda_image(capability: tuple[int, int]) -> Path | None:
    """An image that was built before, by whatever nvcc, perhaps on a machine that shares the cache."""
    filename, _, key = _cuda_plan(capability)
    return find(filename, key)


def parse_architecture(text: str) -> tuple[int, int]:
    """The compute capability in `sm_90`, `90` or `9.0`.

    Raises:
        NoiseganError: when it is none.
    """
    match = re.fullmatch(r"(?:sm_)?(\d{1,2})\.?(\d)", text)
    if match is None:
        raise NoiseganError(f"{text!r} is no GPU architecture; write for example sm_90 or 9.0")
    return int(match[1]), int(match[2])


def _cuda_plan(capability: tuple[int, int]) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Name of the image, nvcc's flags, and the key but for the compiler."""
    architecture = f"sm_{capability[0]}{capability[1]}"
    flags = (*NVCC_FLAGS, f"-arch={architecture}")
    key = {
        "sources": sources_digest(".cu", ".cuh", ".h"),
        "flags": shlex.join(flags),
        "architecture": architecture,
        **torch_parts(),
    }
    return f"kernels_{architecture}.cubin", flags, key


def sources_digest(*suffixes: str) -> str:
    """A digest of the names and texts of all kernel sources and headers whose names end so."""
    files = sorted(path for path in CSRC.iterdir() if path.suffix in suffixes)
    return digest(*(part for path in files for part in (path.name, path.read_bytes())))


def torch_parts() -> dict[str, str]:
    """The part of a key that torch makes up."""
    import torch  # here, so that the tools around it start without

    return {"torch": torch.__version__, "cuda": torch.version.cuda or "none"}


def _build_cpu(folder: Path, compiler: Tool, flags: Sequence[str]) -> None:
    _LOG.warning("noisegan: building its CPU operations (once, some seconds) ...")
    sources = sorted(CSRC.glob("cpu*.cpp"))
    objects = [f"{source.stem}.o" for source in sources]
    text = _rule("compile", [*compiler.command, *flags, "-c", "-o"], "$out $in")
    text += _rule("link", [*compiler.command, *flags, "-shared", "-o"], "$out $in")
    for source, name in zip(sources, objects, strict=True):
        text += _edge(name, "compile", [source])
    _run_ninja(folder, text + _edge(CPU_LIBRARY, "link", objects), compiler.version)
    for name in objects:
        (folder / name).unlink()


def _rule(name: str, command: Sequence[str], operands: str) -> str:
    """A ninja rule; the command's words may hold anything, `operands` are ninja's own."""
    return f"rule {name}\n  command = {shlex.join(command).replace('$', '$$')} {operands}\n"


def _edge(output: str, rule: str, inputs: Sequence[str | Path]) -> str:
    words = [re.sub(r"([$ :])", r"$\1", str(path)) for path in inputs]
    return f"build {output}: {rule} {' '.join(words)}\n"


def _run_ninja(folder: Path, text: str, compiler: str) -> None:
    """Run ninja on a build file in `folder`; what the tools say goes to the folder's log.

    Raises:
        BuildError: when ninja is missing, does not start, or fails.
        OSError: when the disk is full.
    """
    ninja = toolchain.ninja()
    if ninja is None:
        raise BuildError("ninja is missing; pip install ninja")
    (folder / "build.ninja").write_text(text, encoding="utf-8")
    try:
        done = subprocess.run(
            ninja.command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Compilers put what they need in between into TMPDIR: this folder is swept when they are killed. By its
            # own name nvcc would hand it to a shell.
            env=os.environ | {"LC_ALL": "C", "TMPDIR": "."},
        )
    except OSError as error:  # of the system, not of the cache's disk
        raise BuildError(
            f"{ninja} does not start: {error.strerror}; try again, and if it stays so, pip install --force-reinstall "
            "ninja"
        ) from error
    (folder / BUILD_LOG).write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0:
        no_space(done.stdout)
        raise BuildError(f"noisegan's operations could not be compiled by {compiler}: {_cause(done.stdout)}")


def _cause(log: str) -> str:
    """The line of a compiler's output that says most: the first error, else the last line."""
    said = re.split(r"^FAILED: .*\n.*\n", log, maxsplit=1, flags=re.MULTILINE)[-1]  # after ninja's copy of the command
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip() and not line.startswith("ninja:")]
    errors = [line for line in lines if re.search(r"\b(fatal|error|cannot find|undefined reference)\b", line)]
    chosen = (errors or lines[-1:] or ["it gave no reason"])[0]
    return chosen.replace(f"{CSRC}{os.sep}", "")


def _no_compiler() -> str:
    chosen = os.environ.get("CXX")
    if chosen:
        return f"the C++ compiler CXX={chosen} does not run; mend or unset CXX"
    return "there is no C++ compiler (g++, clang++ or c++); install one, for example with apt install g++"
