"""What this machine can build with: C++ compilers, ninja, a CUDA toolkit, and the name of its processor."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from noisegan.ext.cache import digest

_PROCESSOR = {
    *("vendor_id", "cpu family", "model", "flags"),  # x86
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),  # ARM
    *("cpu", "isa"),  # POWER, RISC-V
}
"""Lines of /proc/cpuinfo that decide what -march=native means."""


_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_fp16", "asimd", "bf16", "sve")


@dataclass(frozen=True)
class Tool:
    """A program that was found: the words of its command and its version as it tells it."""

    command: tuple[str, ...]
    version: str

    def __str__(self) -> str:
        return f"{shlex.join(self.command)} ({self.version})"


def compilers() -> Iterator[Tool]:
    """C++ compilers in the order in which they are tried: $CXX alone where it is set, else g++, clang++, c++."""
    chosen = os.environ.get("CXX")
    seen = set()
    for name in [chosen] if chosen else ["g++", "clang++", "c++"]:
        command = _words(name)
        found = shutil.which(command[0]) if command else None
        if found is None or os.path.realpath(found) in seen:
            continue
        seen.add(os.path.realpath(found))
        version = _first_line(found, *command[1:], "--version")
        if version is not None:
            yield Tool((found, *command[1:]), version)


def _words(command: str) -> list[str]:
    """The words of a command as a shell reads it; none where a quotation does not end."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def ninja() -> Tool | None:
    """The ninja of the Python package `ninja`, else the one on PATH."""
    places = []
    with suppress(ImportError, AttributeError):
        places.append(str(Path(importlib.import_module("ninja").BIN_DIR) / "ninja"))
    for place in [*places, "ninja"]:
        found = shutil.which(place)
        version = _first_line(found, "--version") if found else None
        if found is not None and version is not None:
            return Tool((found,), version)
    return None


@cache
def cuda_toolkit() -> Tool | None:
    """nvcc of a CUDA toolkit that is whole: bin/nvcc and cuda_runtime.h.

    An nvcc on PATH may be a wrapper or a link, so its own folder proves nothing; it is asked where its toolkit is.
    """
    for root in _toolkit_roots():
        nvcc = root / "bin" / "nvcc"
        headers = [root / "include" / "cuda_runtime.h", *root.glob("targets/*/include/cuda_runtime.h")]
        if nvcc.is_file() and any(header.is_file() for header in headers):
            said = _output(str(nvcc), "--version") or ""
            release = re.search(r"V(\d+[\d.]*)", said)
            if release:
                return Tool((str(nvcc),), release[1])
    return None


def _toolkit_roots() -> Iterator[Path]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]).expanduser()
    found = shutil.which("nvcc")
    if found is not None:
        yield Path(found).parent.parent
        yield Path(found).resolve().parent.parent
        top = re.search(r"^#\$ TOP=(.+)$", _output(found, "--dryrun", "x.cu") or "", re.MULTILINE)
        if top:
            yield Path(top[1].strip()).resolve()
    yield Path("/usr/local/cuda")


@cache
def processor() -> str:
    """This processor's name and a digest of what it can do: code for it may not run on another."""
    pairs = _cpuinfo()
    telling = sorted(f"{key}={value}" for key, value in pairs if key in _PROCESSOR)
    name = next((value for key, value in sorted(pairs) if key == "model name"), platform.machine())
    if not telling:  # macOS
        name = _first_line("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or name
    return f"{name} {digest(platform.machine(), name, *telling)[:12]}"


def processor_features() -> list[str]:
    """Of the vector instructions that matter here, those that this processor has, as far as the system tells."""
    known = {flag for key, value in _cpuinfo() if key in ("flags", "Features") for flag in value.split()}
    return [flag for flag in _FEATURES if flag in known]


@cache
def _cpuinfo() -> frozenset[tuple[str, str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return frozenset((key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines))


def _first_line(*command: str) -> str | None:
    said = _output(*command)
    return said.strip().splitlines()[0].strip() if said and said.strip() else None


def _output(*command: str) -> str | None:
    """What a program says, on both channels; None where it does not run or fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | {"LC_ALL": "C"},
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
