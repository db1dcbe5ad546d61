"""Finds, once per process and kind of device, the fastest kernels there are; without any, PyTorch's own forms run.

| NOISEGAN_EXT | on a CPU | on a CUDA GPU |
|---|---|---|
| `auto` (default) | the C++ library, else the reference | what nvcc built before, NVRTC, nvcc, or the reference |
| `native` | the C++ library or an error | nvcc's image or an error |
| `nvrtc` | as `auto`: NVRTC makes nothing for CPUs | NVRTC's image or an error |
| `ref` | the reference | the reference |

nvcc and NVRTC compile the same text to the same speed; NVRTC comes with torch and needs less than a second, so it is
preferred where nothing was built before (`noisegan ext build`).
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from noisegan.errors import NoiseganError, near_match
from noisegan.ext import build
from noisegan.ext.build import BuildError
from noisegan.ext.host import Kernels
from noisegan.ext.params import DTYPES, KERNELS, Philox

VARIABLE = "NOISEGAN_EXT"
MODES = ("auto", "native", "nvrtc", "ref")
REFERENCE = "reference"

_LOG = logging.getLogger("noisegan")


@dataclass(frozen=True)
class Choice:
    """What runs on a kind of device and why."""

    kernels: Kernels | None
    why: str

    @property
    def backend(self) -> str:
        """`native`, `nvrtc` or `reference`."""
        return REFERENCE if self.kernels is None else self.kernels.name


class CpuKernels:
    """The kernels of a CPU library."""

    name = "native"
    sums_channels = True

    def __init__(self, path: Path) -> None:
        """Raises:
        BuildError: when the library cannot be loaded, has other structs than params.py, or computes nonsense.
        """
        cure = "remove it with noisegan ext clean and try again"
        try:
            library = ctypes.CDLL(str(path))
            library.noisegan_sizeof.restype = ctypes.c_longlong
            self._functions = {}
            for number, (struct, name) in enumerate(KERNELS.items()):
                size = library.noisegan_sizeof(number)
                if size != ctypes.sizeof(struct):
                    raise BuildError(
                        f"{path} takes {size} bytes for {name}, not {ctypes.sizeof(struct)}: it was built for another "
                        f"noisegan; {cure}"
                    )
                function = getattr(library, f"noisegan_{name}")
                function.argtypes = (ctypes.POINTER(struct), ctypes.c_int)
                function.restype = None
                self._functions[struct] = function
        except (OSError, AttributeError) as error:
            raise BuildError(f"cannot load {path}: {error}; {cure}") from error
        if self._first_words() != _FIRST_WORDS:
            raise BuildError(f"{path} computes nonsense; {cure}")

    def launch(self, what: ctypes.Structure, dtype: torch.dtype, device: torch.device) -> None:
        self._functions[type(what)](what, DTYPES.get(dtype, 0))  # philox has a type of its own and ignores this

    def _first_words(self) -> list[int]:
        """The first block of the stream whose key and counter are zero."""
        ids, out = (ctypes.c_longlong * 1)(), (ctypes.c_longlong * 4)()
        zero = ctypes.addressof(ids)
        what = Philox(ids=zero, step=zero, out=ctypes.addressof(out), n=1, count=4, kind=0, threads=1)
        self.launch(what, torch.int64, torch.device("cpu"))
        return list(out)


_FIRST_WORDS = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's kat_vectors, philox4x32 10


class CudaKernelsByDevice:
    """CUDA kernels that are made for a GPU when it is first used: the GPUs of a machine may be of several kinds."""

    sums_channels = False

    def __init__(self, name: str, image: Callable[[tuple[int, int]], bytes]) -> None:
        self.name = name
        self._image = image
        self._made: dict[tuple[int, int], Kernels] = {}
        self._by_index: dict[int, Kernels] = {}
        self._failed: dict[tuple[int, int], BuildError] = {}
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def launch(self, what: ctypes.Structure, dtype: torch.dtype, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        try:
            kernels = self._by_index.get(index) or self.prepare(index)
        except BuildError as error:
            if index not in self._told:
                self._told.add(index)
                _LOG.warning("noisegan: operations on cuda:%d run in their slower PyTorch forms: %s", index, error)
            raise
        kernels.launch(what, dtype, device)

    def prepare(self, index: int) -> Kernels:
        """The kernels for a GPU, made if need be.

        Raises:
            BuildError: when they cannot be had for this GPU; raised again at every use without another try.
        """
        from noisegan.ext.cuda import CudaKernels  # here, as NVRTC below: a CPU needs neither

        capability = torch.cuda.get_device_capability(index)
        with self._lock:
            if capability in self._failed:
                raise self._failed[capability]
            if capability not in self._made:
                try:
                    with torch.cuda.device(index):  # where they are tried
                        self._made[capability] = CudaKernels(self._image(capability), self.name)
                except BuildError as error:
                    self._failed[capability] = error
                    raise
            self._by_index[index] = self._made[capability]
        return self._by_index[index]


_choices: dict[str, Choice] = {}
_lock = threading.RLock()
_warned = False


def kernels_for(device_type: str) -> Kernels | None:
    """The kernels for tensors on `cpu`, `cuda` and so on, or None where the reference runs; found once per process.

    Raises:
        NoiseganError: when NOISEGAN_EXT is none of its values, or asks for what cannot be had.
    """
    choice = _choices.get(device_type)
    return (choice or choose(device_type)).kernels


def backend_of(device_type: str) -> str:
    """What runs on a kind of device: `native`, `nvrtc` or `reference`; raises as `kernels_for`."""
    return choose(device_type).backend


def choose(device_type: str) -> Choice:
    """`kernels_for` with the reason."""
    global _warned
    with _lock:
        if device_type not in _choices:
            choice, missed = _choose(device_type, mode())
            if missed is not None and not _warned:
                _LOG.warning(
                    "noisegan: %s operations run in their slower PyTorch forms: %s (%s=ref accepts that)",
                    *(device_type.upper(), missed, VARIABLE),
                )
                _warned = True
            _choices[device_type] = choice
        return _choices[device_type]


def forget() -> None:
    """Choose anew at the next use, as after a change of NOISEGAN_EXT."""
    global _warned
    with _lock:
        _choices.clear()
        _warned = False


def mode() -> str:
    """The value of NOISEGAN_EXT.

    Raises:
        NoiseganError: when it is none of MODES.
    """
    chosen = os.environ.get(VARIABLE) or "auto"
    if chosen not in MODES:
        raise NoiseganError(f"{VARIABLE}={chosen} is none of {', '.join(MODES)}{_hint(chosen)}")
    return chosen


def _hint(chosen: str) -> str:
    hint = near_match(chosen, MODES)
    return hint if "did you mean" in hint else "; set it to one of these or unset it"


def _choose(device_type: str, mode: str) -> tuple[Choice, str | None]:
    """What to use, and why the reference it is where something faster could have been."""
    if mode == "ref":
        return Choice(None, f"{VARIABLE}=ref"), None
    failures = []
    try:
        routes = _routes(device_type, mode)
    except RuntimeError as error:  # a driver that does not answer
        routes, failures = [], [str(error)]
    if not routes and not failures:
        return Choice(None, f"there are no kernels for {device_type} devices"), None
    for why, make in routes:
        try:
            kernels = make()
        except (NoiseganError, RuntimeError) as error:
            failures.append(str(error))
        else:
            if kernels is not None:
                return Choice(kernels, why), None
    missed = "; ".join(failures)
    if mode == "native" or (mode == "nvrtc" and device_type == "cuda"):
        raise NoiseganError(f"{VARIABLE}={mode} cannot be had for {device_type.upper()} tensors: {missed}")
    return Choice(None, missed), missed


def _routes(device_type: str, mode: str) -> list[tuple[str, Callable[[], Kernels | None]]]:
    """Ways to kernels, the best first; each with the reason for which it will have been chosen."""
    if device_type == "cpu":
        return [("a C++ library for this processor", lambda: CpuKernels(build.cpu_library()))]
    if device_type != "cuda" or torch.version.hip is not None:
        return []
    nvcc = ("an image built by nvcc", lambda: _cuda("native", _native_image))
    nvrtc = ("an image compiled by torch's NVRTC", lambda: _cuda("nvrtc", _nvrtc_image))
    if mode != "auto":
        return [nvcc if mode == "native" else nvrtc]
    return [nvcc, nvrtc] if build.built_cuda_image(torch.cuda.get_device_capability()) else [nvrtc, nvcc]


def _cuda(name: str, image: Callable[[tuple[int, int]], bytes]) -> Kernels:
    kernels = CudaKernelsByDevice(name, image)
    kernels.prepare(torch.cuda.current_device())
    return kernels


def _native_image(capability: tuple[int, int]) -> bytes:
    return build.cuda_image(capability).read_bytes()


def _nvrtc_image(capability: tuple[int, int]) -> bytes:
    from noisegan.ext.nvrtc import compile_image

    return compile_image(capability)
