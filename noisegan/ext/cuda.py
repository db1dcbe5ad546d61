"""Runs the CUDA kernels: loads their image through the driver, chooses grids, launches on torch's current stream.

Nothing here waits for the GPU but the first use of it, so steps can be captured into CUDA graphs after one warm-up.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from typing import Any

import torch

from noisegan.ext.cache import BuildError
from noisegan.ext.grids import launch_shape
from noisegan.ext.params import DTYPES, KERNELS, Philox

_FIRST_WORDS = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's kat_vectors, philox4x32 10


class CudaKernels:
    """The kernels of an image of csrc/kernels.cu, on every GPU that can run it."""

    sums_channels = convolves = False

    def __init__(self, image: bytes, name: str) -> None:
        """Loads the image onto the current GPU and tries it there.

        Args:
            image: what nvcc or NVRTC made, a cubin or PTX.
            name: `native` or `nvrtc`.

        Raises:
            BuildError: when the driver cannot be reached, refuses the image, or the kernels compute nonsense.
        """
        self.name = name
        self._image = image
        self._driver = _driver()
        self._modules: dict[int, _Module] = {}
        self._lock = threading.Lock()
        index = torch.cuda.current_device()
        try:
            words = self._first_words(index)
        except RuntimeError as error:
            raise BuildError(f"{torch.cuda.get_device_name(index)} does not run noisegan's kernels: {error}") from error
        if words != _FIRST_WORDS:
            raise BuildError(
                f"{torch.cuda.get_device_name(index)} computes nonsense with noisegan's kernels; remove them with "
                f"noisegan ext clean and try again"
            )

    def launch(self, what: ctypes.Structure, dtype: torch.dtype, device: torch.device) -> None:
        """Start the kernel that `what` belongs to; it is copied, the tensors behind it are the stream's business.

        Raises:
            RuntimeError: when the driver refuses; names the kernel and the driver's reason.
            ValueError: for maps too large.
        """
        grid, block = launch_shape(what, dtype)
        if 0 in grid:  # nothing to do
            return
        index = torch.cuda.current_device() if device.index is None else device.index
        module = self._modules.get(index) or self._load(index)
        kernel = entry_point(type(what), dtype)
        stream = torch.cuda.current_stream(index).cuda_stream
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(what))
        module.launch(kernel, grid, block, stream, ctypes.addressof(arguments))

    def _load(self, index: int) -> _Module:
        with self._lock:
            if index not in self._modules:
                self._modules[index] = _Module(self._driver, self._image, index)
            return self._modules[index]

    def _first_words(self, index: int) -> list[int]:
        """The first block of the stream whose key and counter are zero."""
        device = _device(index)
        ids, out = (torch.zeros(count, dtype=torch.int64, device=device) for count in (1, 4))
        zero = ids.data_ptr()
        self.launch(Philox(ids=zero, step=zero, out=out.data_ptr(), n=1, count=4, kind=0), torch.int64, device)
        words: list[int] = out.tolist()
        return words


def entry_point(struct: type[ctypes.Structure], dtype: torch.dtype) -> str:
    """The name of a kernel in the image."""
    name = f"noisegan_{KERNELS[struct]}"
    return name if struct is Philox else f"{name}_{str(dtype).removeprefix('torch.')}"


class _Module:
    """The image on one GPU, in the context that torch uses there."""

    def __init__(self, driver: Any, image: bytes, index: int) -> None:
        self._driver = driver
        (gpu,) = self._call("cuDeviceGet", index)
        (self._context,) = self._call("cuDevicePrimaryCtxRetain", gpu)
        self._enter()
        try:
            (self._module,) = self._call("cuModuleLoadData", image)
            # All now: the driver loads a function when it is first asked for, and that must not be in a captured step.
            self._functions = {
                name: self._call("cuModuleGetFunction", self._module, name.encode(), about=name)[0]
                for name in sorted({entry_point(struct, dtype) for struct in KERNELS for dtype in DTYPES})
            }
        finally:
            self._leave()

    def launch(
        self, kernel: str, grid: tuple[int, int, int], block: tuple[int, int, int], stream: int, arguments: int
    ) -> None:
        # A thread that has not used this GPU yet has no context, and torch's own guard may leave it so.
        self._enter()
        try:
            self._call("cuLaunchKernel", self._functions[kernel], *grid, *block, 0, stream, arguments, 0, about=kernel)
        finally:
            self._leave()

    def _enter(self) -> None:
        self._call("cuCtxPushCurrent", self._context)

    def _leave(self) -> None:
        self._call("cuCtxPopCurrent")

    def _call(self, name: str, *arguments: Any, about: str | None = None) -> tuple[Any, ...]:
        """What a function of the driver returns.

        Raises:
            RuntimeError: when it fails, with the driver's own words.
        """
        status, *results = getattr(self._driver, name)(*arguments)
        if int(status) != 0:
            _, text = self._driver.cuGetErrorString(status)
            subject = f"{about}: " if about else ""
            reason = text.decode() if text else "unknown error"
            raise RuntimeError(f"{subject}{name} failed with error {int(status)}, {reason}")
        return tuple(results)


def _device(index: int) -> torch.device:
    return torch.device("cuda", index)


def _driver() -> Any:
    return bindings("driver")


def bindings(name: str) -> Any:
    """A module of cuda-bindings. torch for CUDA 12 does not bring the package, and must not be given that for 13.

    Raises:
        BuildError: when it is missing.
    """
    try:
        return importlib.import_module(f"cuda.bindings.{name}")
    except ImportError as error:
        major = (torch.version.cuda or "").partition(".")[0]
        package = f"cuda-bindings~={major}.0" if major else "cuda-bindings"
        raise BuildError(f"the package cuda-bindings is missing; pip install {package}") from error
