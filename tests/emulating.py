"""Builds the host emulator of tests/emulator and offers noisegan's CUDA kernels through it, as `Kernels`.

As a program, `python tests/emulating.py library dtype`, it runs all cases of a dtype: for a library with sanitizers,
whose runtime must be loaded before Python.
"""

from __future__ import annotations

import ctypes
import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from op_cases import CASES, DTYPES, Case, assert_close

from noisegan.ext import host, reference
from noisegan.ext.build import CSRC
from noisegan.ext.cuda import entry_point
from noisegan.ext.grids import Size, launch_shape

SOURCES = Path(__file__).parent / "emulator"
FORWARD, BACKWARD, SHUFFLED = 0, 1, 2
"""Orders in which threads run."""
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1")


def build(folder: Path, name: str, *flags: str) -> Path:
    """tests/emulator/<name>.cpp as a shared library in `folder`; built once, whoever asks."""
    library = folder / f"lib{name}{'_sanitized' if flags else ''}.so"
    with library.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            compiler = shutil.which("g++")
            assert compiler is not None
            general = ("-std=c++17", "-O1", "-Wno-unknown-pragmas", "-fno-strict-aliasing")
            command = [compiler, *general, "-fPIC", "-shared", *flags, f"-I{CSRC}", str(SOURCES / f"{name}.cpp")]
            subprocess.run([*command, "-o", str(library.with_suffix(".part"))], check=True)
            library.with_suffix(".part").rename(library)
    return library


class Emulator:
    """The kernels of a library, by name."""

    def __init__(self, library: Path) -> None:
        self._emulate = ctypes.CDLL(str(library)).emulate
        self._emulate.argtypes = (
            *(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint * 3, ctypes.c_uint * 3),
            *(ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t),
        )

    def run(self, name: str, params: int, grid: Size, block: Size, order: int = FORWARD) -> None:
        """Run one kernel; `params` is the address of its struct.

        Raises:
            RuntimeError: when it breaks a rule of CUDA.
        """
        error = ctypes.create_string_buffer(1000)
        sizes = ((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block))
        if self._emulate(name.encode(), params, *sizes, order, error, len(error)):
            raise RuntimeError(error.value.decode())


class EmulatedKernels:
    """noisegan's CUDA kernels on the CPU."""

    name = "emulated"
    sums_channels = convolves = False

    def __init__(self, emulator: Emulator, order: int = FORWARD, one_block: bool = False) -> None:
        """`one_block` leaves a single block along each axis that is a loop in the kernel."""
        self._emulator, self._order, self._one_block = emulator, order, one_block

    def launch(self, what: ctypes.Structure, dtype: torch.dtype, device: torch.device) -> None:
        grid, block = launch_shape(what, dtype)
        name = entry_point(type(what), dtype)
        if self._one_block:
            fixed = {"bias_act_grad": 2, "upfirdn2d": 2}
            kept = next((axes for kernel, axes in fixed.items() if kernel in name), 0)
            grid = (*grid[:kept], *[min(1, size) for size in grid[kept:]])  # type: ignore[assignment]
        if 0 not in grid:
            self._emulator.run(name, ctypes.addressof(what), grid, block, self._order)


def check(kernels: host.Kernels, case: Case, dtype: torch.dtype) -> None:
    """Compare with the plain twin."""
    arguments = case.arguments(dtype)
    found = getattr(host, case.op)(kernels, *arguments)
    assert_close(found, getattr(reference, case.op)(*arguments), dtype, case)


if __name__ == "__main__":
    emulated = EmulatedKernels(Emulator(Path(sys.argv[1])), SHUFFLED)
    dtype = next(dtype for dtype in DTYPES if str(dtype) == sys.argv[2])
    for case in CASES:
        check(emulated, case, dtype)
    print(len(CASES), "cases")
