"""Finds, once per process and kind of device, the fastest kernels there are; without any, PyTorch's own forms run.

Every kind of GPU is a kind of its own: what nvcc built for one says nothing about another.

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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from noisegan.errors import NoiseganError, near_match
from noisegan.ext import build
from noisegan.ext.build import BuildError
from noisegan.ext.host import Kernels
from noisegan.ext.params import CPU_KERNELS, DTYPES, Philox

VARIABLE = "NOISEGAN_EXT"
MODES = ("auto", "native", "nvrtc", "ref")
REFERENCE = "reference"

_LOG = logging.getLogger("noisegan")


Routes = Sequence[tuple[str, Callable[[], Kernels]]]
"""Ways to kernels, the best first; each with the reason for which it will have been chosen."""


@dataclass(frozen=True)
class Choice:
    """What runs on a kind of device and why; whether something faster was missed."""

    kernels: Kernels | None
    why: str
    missed: bool = False

    @property
    def backend(self) -> str:
        """`native`, `nvrtc` or `reference`."""
        return REFERENCE if self.kernels is None else self.kernels.name


class CpuKernels:
    """The kernels of a CPU library."""

    name = "native"
    sums_channels = convolves = True

    def __init__(self, path: Path) -> None:
        """Raises:
        BuildError: when the library cannot be loaded, has other structs than params.py, or computes nonsense.
        """
        cure = _cure(path)
        try:
            library = ctypes.CDLL(str(path))
            library.noisegan_sizeof.restype = ctypes.c_longlong
            self._functions = {}
            for number, (struct, name) in enumerate(CPU_KERNELS.items()):
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


def _cure(path: Path) -> str:
    with suppress(OSError):
        if os.statvfs(path).f_flag & getattr(os, "ST_NOEXEC", 0):
            return "its file system runs no programs: set NOISEGAN_CACHE to a folder where they may be run"
    return "remove it with noisegan ext clean and try again"


class CudaKernelsByDevice:
    """CUDA kernels that are found for a GPU when it is first used: the GPUs of a machine may be of several kinds."""

    sums_channels = convolves = False

    def __init__(self, mode: str) -> None:
        """
        Args:
            mode: the value of NOISEGAN_EXT.
        """
        self.name = mode
        self._found: dict[tuple[int, int], Choice] = {}
        self._by_index: dict[int, Kernels] = {}
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def launch(self, what: ctypes.Structure, dtype: torch.dtype, device: torch.device) -> None:
        """As `Kernels.launch`.

        Raises:
            BuildError: when this GPU has no kernels and the reference may run in their place.
            NoiseganError: when it has none and NOISEGAN_EXT asks for them.
        """
        index = torch.cuda.current_device() if device.index is None else device.index
        (self._by_index.get(index) or self._kernels(index)).launch(what, dtype, device)

    def _kernels(self, index: int) -> Kernels:
        choice = self.choose(index)
        if choice.kernels is None:
            if index not in self._told:
                self._told.add(index)
                _LOG.warning("noisegan: operations on cuda:%d run in their slower PyTorch forms: %s", index, choice.why)
            raise BuildError(choice.why)
        self._by_index[index] = choice.kernels
        return choice.kernels

    def choose(self, index: int) -> Choice:
        """What runs on a GPU and why; found once per compute capability.

        Raises:
            NoiseganError: when NOISEGAN_EXT asks for what cannot be had there.
        """
        capability = torch.cuda.get_device_capability(index)
        with self._lock:
            if capability not in self._found:
                with torch.cuda.device(index):  # where they are tried
                    self._found[capability] = _first(_cuda_routes(capability, self.name))
        choice = self._found[capability]
        return _missed(f"cuda:{index}", self.name, choice.why) if choice.missed else choice


_choices: dict[str, Choice] = {}
_lock = threading.RLock()
_warned = False


def kernels_for(device_type: str) -> Kernels | None:
    """The kernels for tensors on `cpu`, `cuda` and so on, or None where the reference runs; found once per process.

    Raises:
        NoiseganError: when NOISEGAN_EXT is none of its values, or asks for what cannot be had.
    """
    choice = _choices.get(device_type)
    return (choice or _of_kind(device_type)).kernels


def backend_of(device: str | torch.device) -> str:
    """What runs on a device, such as `cuda:1`: `native`, `nvrtc` or `reference`; raises as `kernels_for`."""
    return choose(device).backend


def choose(device: str | torch.device) -> Choice:
    """What runs on a device and why, `cuda` being the current GPU; raises as `kernels_for`."""
    device = torch.device(device)
    choice = _of_kind(device.type)
    if isinstance(choice.kernels, CudaKernelsByDevice):
        return choice.kernels.choose(torch.cuda.current_device() if device.index is None else device.index)
    return choice


def _of_kind(device_type: str) -> Choice:
    """What runs on a kind of device and why; what is missed is told once."""
    global _warned
    with _lock:
        if device_type not in _choices:
            choice = _choose(device_type, mode())
            if choice.missed and not _warned:
                _LOG.warning(
                    "noisegan: %s operations run in their slower PyTorch forms: %s (%s=ref accepts that)",
                    *(device_type.upper(), choice.why, VARIABLE),
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


def _choose(device_type: str, mode: str) -> Choice:
    """What to use on a kind of device; kernels for GPUs choose again for each."""
    if mode == "ref":
        return Choice(None, f"{VARIABLE}=ref")
    if device_type == "cpu":
        choice = _first([("a C++ library for this processor", lambda: CpuKernels(build.cpu_library()))])
        return _missed("CPU", "auto" if mode == "nvrtc" else mode, choice.why) if choice.missed else choice
    if device_type != "cuda" or torch.version.hip is not None:
        return Choice(None, f"there are no kernels for {device_type} devices")
    kernels = CudaKernelsByDevice(mode)
    try:
        if len({torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}) > 1:
            return Choice(kernels, "each GPU has its own")  # one without kernels does not speak for the others
        here = kernels.choose(torch.cuda.current_device())
    except RuntimeError as error:  # a driver that does not answer
        return _missed("CUDA", mode, str(error))
    return here if here.missed else Choice(kernels, here.why)


def _first(routes: Routes) -> Choice:
    """The first that leads to kernels."""
    failures = []
    for why, make in routes:
        try:
            return Choice(make(), why)
        except (NoiseganError, RuntimeError) as error:
            failures.append(str(error))
    return Choice(None, "; ".join(failures), missed=True)


def _missed(what: str, mode: str, why: str) -> Choice:
    """The reference, where it will do.

    Raises:
        NoiseganError: when NOISEGAN_EXT asks for more.
    """
    if mode != "auto":
        raise NoiseganError(f"{VARIABLE}={mode} cannot be had for {what} tensors: {why}")
    return Choice(None, why, missed=True)


def _cuda_routes(capability: tuple[int, int], mode: str) -> Routes:
    from noisegan.ext.cuda import CudaKernels  # here, as NVRTC below: a CPU needs neither

    def native() -> Kernels:
        return CudaKernels(build.cuda_image(capability).read_bytes(), "native")

    def nvrtc() -> Kernels:
        from noisegan.ext.nvrtc import compile_image

        return CudaKernels(compile_image(capability), "nvrtc")

    by_nvcc, by_nvrtc = ("an image built by nvcc", native), ("an image compiled by torch's NVRTC", nvrtc)
    if mode != "auto":
        return [by_nvcc if mode == "native" else by_nvrtc]
    return [by_nvcc, by_nvrtc] if build.built_cuda_image(capability) else [by_nvrtc, by_nvcc]
