"""The CUDA kernels on the host: the text that GPUs get, run by tests/emulator against the plain PyTorch twins.

Then the launcher, with the emulator in the place of a GPU behind the driver's interface.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import emulating
import pytest
import torch
from emulating import BACKWARD, FORWARD, SANITIZERS, SHUFFLED, EmulatedKernels, Emulator, check
from op_cases import CASES, DTYPES

from noisegan.ext import cuda, host
from noisegan.ext.cache import BuildError
from noisegan.ext.cuda import CudaKernels
from noisegan.ext.grids import launch_shape
from noisegan.ext.params import KERNELS, BiasAct, BiasActGrad, ChannelSum, Philox, UpFirDn

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="the emulator needs Linux and g++"
)

# Kernels whose threads talk to each other: the order in which they run may matter.
TALKING = ("bias_act_grad", "channel_sum")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "emulator"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def emulator(folder: Path) -> Emulator:
    return Emulator(emulating.build(folder, "kernels"))


@pytest.fixture(scope="session")
def faulty(folder: Path) -> Emulator:
    return Emulator(emulating.build(folder, "faulty"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_equal_their_plain_twins(emulator: Emulator, dtype: torch.dtype) -> None:
    kernels = EmulatedKernels(emulator)
    for case in CASES:
        check(kernels, case, dtype)
    assert {case.op for case in CASES} == set(KERNELS.values())


@pytest.mark.parametrize("order", [BACKWARD, SHUFFLED])
def test_the_order_of_threads_and_blocks_does_not_matter(emulator: Emulator, order: int) -> None:
    kernels = EmulatedKernels(emulator, order)
    for case in CASES:
        check(kernels, case, torch.float32 if case.op in TALKING else torch.bfloat16)


def test_few_blocks_do_all_the_work(emulator: Emulator) -> None:
    kernels = EmulatedKernels(emulator, one_block=True)
    for case in CASES:
        check(kernels, case, torch.float32)


@pytest.mark.parametrize("kernel", ["bias_act", "bias_act_grad", "channel_sum", "upfirdn2d", "philox"])
def test_a_wrong_kernel_is_noticed(emulator: Emulator, kernel: str) -> None:
    """The comparison bites: a last thread less, and every kernel is wrong somewhere."""

    class Short(EmulatedKernels):
        def launch(self, what: ctypes.Structure, dtype: torch.dtype, device: torch.device) -> None:
            for axis in ("ow", "count", "p"):
                if getattr(what, axis, 0) > 1:
                    setattr(what, axis, getattr(what, axis) - 1)
                    break
            super().launch(what, dtype, device)

    def all_cases() -> None:
        for case in CASES:
            if case.op == kernel:
                check(Short(emulator), case, torch.float32)

    with pytest.raises(AssertionError):
        all_cases()


def test_nan_passes_and_infinity_is_clamped(emulator: Emulator) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0]).view(1, 1, 2, 2)
    y = host.bias_act(EmulatedKernels(emulator), x, None, None, None, None, None, (), None, 0.2, 1.0, 2.0).flatten()
    assert y[0].isnan()
    assert y[1:].tolist() == [2.0, -2.0, 1.0]


def test_empty_maps_are_no_work(emulator: Emulator) -> None:
    kernels = EmulatedKernels(emulator)
    for shape in ((0, 3, 4, 4), (2, 3, 0, 4)):
        x = torch.zeros(shape)
        assert host.bias_act(kernels, x, None, None, None, None, None, (), None, 0.2, 1.0, 1.0).shape == shape
        nothing = (None, None, None, None, None, ())
        _, sums, _, _, _ = host.bias_act_grad(kernels, x, x, *nothing, True, True, None, 0.2, 1.0, 1.0)
        assert sums.tolist() == [[0.0] * 3] * shape[0]


@pytest.mark.slow
def test_no_kernel_reads_or_writes_outside_its_tensors(folder: Path) -> None:
    """All cases under AddressSanitizer and the undefined-behaviour sanitizer, float32 alone to save time."""
    library = emulating.build(folder, "kernels", *SANITIZERS, "-DFLOAT32_ONLY")
    done = sanitized(str(Path(emulating.__file__)), str(library), str(torch.float32))
    assert (done.returncode, done.stdout) == (0, f"{len(CASES)} cases\n"), done.stderr[-5000:]


def test_a_read_behind_the_end_is_found(folder: Path) -> None:
    library = emulating.build(folder, "faulty", *SANITIZERS)
    program = """
import ctypes, sys
values = ctypes.CDLL(None).malloc
values.restype = ctypes.c_void_p
params, size, error = ctypes.c_void_p(values(64 * 4)), ctypes.c_uint * 3, ctypes.create_string_buffer(99)
emulate = ctypes.CDLL(sys.argv[1]).emulate
print(emulate(sys.argv[2].encode(), ctypes.byref(params), size(1, 1, 1), size(64, 1, 1), 0, error, 99))
"""
    fine = sanitized("-c", program, str(library), "missing_barrier")
    assert (fine.returncode, fine.stdout) == (0, "0\n"), fine.stderr[-5000:]
    found = sanitized("-c", program, str(library), "reads_behind_the_end")
    assert found.returncode != 0
    assert "heap-buffer-overflow" in found.stderr
    assert "reads_behind_the_end" in found.stderr


def sanitized(*arguments: str) -> subprocess.CompletedProcess[str]:
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    path = Path(runtime.stdout.strip())
    if not path.is_absolute():  # g++ echoes names that it does not find
        pytest.skip("this g++ has no AddressSanitizer")
    environment = {
        "LD_PRELOAD": str(path),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=os.environ | environment)


def run_faulty(
    faulty: Emulator, name: str, values: torch.Tensor, order: int = FORWARD, threads: int = 64
) -> list[float]:
    values = values.clone()
    params = ctypes.c_void_p(values.data_ptr())
    faulty.run(name, ctypes.addressof(params), (1, 1, 1), (threads, 1, 1), order)
    return values.tolist()


@pytest.mark.parametrize("order", [FORWARD, BACKWARD, SHUFFLED])
def test_a_missing_barrier_gives_wrong_results(faulty: Emulator, order: int) -> None:
    values = torch.arange(64.0)
    assert run_faulty(faulty, "sound", values, order) == values.flip(0).tolist()
    assert run_faulty(faulty, "missing_barrier", values, order) != values.flip(0).tolist()


def test_shuffles_bring_the_values_of_other_lanes(faulty: Emulator) -> None:
    values = torch.arange(64.0)
    found = run_faulty(faulty, "warps_sum", values, SHUFFLED)
    assert (found[0], found[32]) == (values[:32].sum(), values[32:].sum())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("divergent_barrier", "a barrier that not all threads of a block meet: thread 32 is in line"),
        ("barrier_after_return", "a barrier that not all threads of a block meet: thread 63 has ended"),
        ("half_a_warp_shuffles", "a shuffle that not all lanes of a warp meet"),
        ("no_such", "there is no such kernel"),
    ],
)
def test_broken_rules_are_errors(faulty: Emulator, name: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run_faulty(faulty, name, torch.zeros(64))


def test_blocks_and_grids_that_no_gpu_takes_are_errors(faulty: Emulator) -> None:
    with pytest.raises(RuntimeError, match="no GPU takes this block"):
        run_faulty(faulty, "sound", torch.zeros(64), threads=2048)
    with pytest.raises(RuntimeError, match="no GPU takes this grid"):
        faulty.run("sound", 0, (1, 1 << 16, 1), (64, 1, 1))


# ------------------------------------------------------------------------------------------------------------- grids


def test_large_maps_get_grids_that_a_gpu_takes() -> None:
    large = {"n": 100_000, "c": 512, "p": 1 << 20, "chunks": 1024}
    for channels_last in (0, 1):
        for what in (
            BiasAct(**{k: v for k, v in large.items() if k != "chunks"}, channels_last=channels_last),
            BiasActGrad(**large, channels_last=channels_last),
            ChannelSum(**{k: v for k, v in large.items() if k != "chunks"}, channels_last=channels_last),
            UpFirDn(
                n=4096, c=512, h=1024, w=1024, oh=2048, ow=2048, kh=4, kw=4, up=2, down=1, channels_last=channels_last
            ),
            Philox(n=100_000, count=1 << 20, kind=2),
        ):
            grid, block = launch_shape(what, torch.float32)
            assert 0 < block[0] * block[1] * block[2] <= 256
            assert block[2] <= 64
            assert grid[0] < 2**31
            assert max(grid[1:]) <= 65535


def test_too_large_a_map_is_named() -> None:
    with pytest.raises(ValueError, match=r"the CUDA kernel bias_act cannot index maps as large as .*; split the batch"):
        launch_shape(BiasAct(n=1, c=1, p=1 << 31), torch.float32)
    with pytest.raises(ValueError, match="the CUDA kernel upfirdn2d cannot index"):
        launch_shape(UpFirDn(n=1 << 16, c=1 << 16, h=1, w=1, oh=1, ow=1, kh=1, kw=1, up=1, down=1), torch.float32)


# ---------------------------------------------------------------------------------------------------------- launcher


class FakeDriver:
    """The functions of cuda.bindings.driver that the launcher calls; kernels run in the emulator."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.contexts: list[str] = []
        self.failing: str | None = None
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            return (700,) if name == self.failing else (0, *getattr(self, f"_{name}")(*arguments))

        return call

    def cuGetErrorString(self, status: int) -> tuple[int, bytes | None]:
        return 0, {700: b"an illegal memory access was encountered"}.get(status)

    def _cuDeviceGet(self, index: int) -> tuple[str]:
        return (f"device {index}",)

    def _cuDevicePrimaryCtxRetain(self, device: str) -> tuple[str]:
        return (f"context of {device}",)

    def _cuCtxPushCurrent(self, context: str) -> tuple[()]:
        self.contexts.append(context)
        return ()

    def _cuCtxPopCurrent(self) -> tuple[str]:
        return (self.contexts.pop(),)

    def _cuModuleLoadData(self, image: bytes) -> tuple[bytes]:
        assert self.contexts == ["context of device 0"]
        return (image,)

    def _cuModuleGetFunction(self, module: bytes, name: bytes) -> tuple[str]:
        assert module == b"image"
        return (name.decode(),)

    def _cuLaunchKernel(self, function: str, *rest: Any) -> tuple[()]:
        *sizes, shared, stream, arguments, extra = rest
        assert self.contexts == ["context of device 0"]
        assert (shared, stream, extra) == (0, 77, 0)
        params = ctypes.c_void_p.from_address(arguments).value
        assert params is not None
        self.emulator.run(function, params, tuple(sizes[:3]), tuple(sizes[3:]))  # type: ignore[arg-type]
        return ()


@pytest.fixture
def driver(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    driver = FakeDriver(emulator)
    monkeypatch.setattr(cuda, "_driver", lambda: driver)
    monkeypatch.setattr(cuda, "_device", lambda index: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "A GPU")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=77))
    yield driver
    assert driver.contexts == []


def test_the_launcher_hands_every_kernel_to_the_driver(driver: FakeDriver) -> None:
    kernels = CudaKernels(b"image", "nvrtc")
    assert kernels.name == "nvrtc"
    for case in CASES[::5]:
        check(kernels, case, torch.float16)
    assert driver.calls.count("cuModuleLoadData") == 1
    launches = driver.calls[driver.calls.index("cuLaunchKernel") :]
    assert set(launches) == {"cuCtxPushCurrent", "cuLaunchKernel", "cuCtxPopCurrent"}  # as a captured step must be


def test_a_driver_that_refuses_a_launch_is_quoted(driver: FakeDriver) -> None:
    kernels = CudaKernels(b"image", "native")
    driver.failing = "cuLaunchKernel"
    message = (
        "noisegan_bias_act_float32: cuLaunchKernel failed with error 700, an illegal memory access was encountered"
    )
    with pytest.raises(RuntimeError, match=message):
        host.bias_act(kernels, torch.zeros(1, 1, 2, 2), None, None, None, None, None, (), None, 0.2, 1.0, 1.0)


def test_an_image_that_does_not_run_is_refused_before_it_is_used(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(driver, "failing", "cuModuleLoadData")
        with pytest.raises(BuildError, match="A GPU does not run noisegan's kernels: cuModuleLoadData failed"):
            CudaKernels(b"image", "native")
    monkeypatch.setattr(driver, "_cuLaunchKernel", lambda *arguments: ())
    with pytest.raises(BuildError, match="A GPU computes nonsense with noisegan's kernels; remove them with"):
        CudaKernels(b"image", "native")


def test_without_cuda_bindings_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(BuildError, match="the package cuda-bindings is missing; pip install cuda-bindings"):
        CudaKernels(b"image", "native")


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not installed")
def test_the_driver_has_the_functions_that_the_launcher_calls() -> None:
    from cuda.bindings import driver

    for name in (*(name[1:] for name in vars(FakeDriver) if name.startswith("_cu")), "cuGetErrorString"):
        assert callable(getattr(driver, name))
