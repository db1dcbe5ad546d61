"""Which kernels are chosen on which device under every value of NOISEGAN_EXT, and what is said when it is none."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from noisegan.errors import NoiseganError
from noisegan.ext import build, load, ops, params, toolchain
from noisegan.ext.build import BuildError
from noisegan.ext.load import CpuKernels, backend_of, kernels_for

COMPILER = next(toolchain.compilers(), None)
NAMES = list(params.KERNELS.values())
SIZES = [ctypes.sizeof(struct) for struct in params.KERNELS]


@pytest.fixture(autouse=True)
def _choose_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(load.VARIABLE, raising=False)
    load.forget()
    yield
    load.forget()


@pytest.fixture
def impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise BuildError("there is no compiler; install one")

    monkeypatch.setattr(build, "cpu_library", fail)


class Gpus:
    """A machine with GPUs, nvcc and NVRTC, each of which may be missing; images are their architecture's number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capabilities = [(9, 0), (8, 6)]
        self.built: list[tuple[int, int]] = []
        self.nvcc = self.nvrtc = True
        self.loadable = [b"nvcc", b"nvrtc"]
        self.launched: list[tuple[str, bytes, int]] = []
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=0: self.capabilities[index])
        monkeypatch.setattr(build, "built_cuda_image", lambda capability: capability in self.built or None)
        monkeypatch.setattr(build, "cuda_image", self.cuda_image)
        monkeypatch.setitem(sys.modules, "noisegan.ext.nvrtc", SimpleNamespace(compile_image=self.compile_image))
        monkeypatch.setitem(sys.modules, "noisegan.ext.cuda", SimpleNamespace(CudaKernels=self.kernels))

    def cuda_image(self, capability: tuple[int, int]) -> SimpleNamespace:
        if not self.nvcc and capability not in self.built:
            raise BuildError("no nvcc")
        return SimpleNamespace(read_bytes=lambda: b"nvcc %d%d" % capability)

    def compile_image(self, capability: tuple[int, int]) -> bytes:
        if not self.nvrtc:
            raise BuildError("no NVRTC")
        return b"nvrtc %d%d" % capability

    def kernels(self, image: bytes, name: str) -> SimpleNamespace:
        if image.split()[0] not in self.loadable:
            raise BuildError("the driver is too old")
        return SimpleNamespace(
            name=name, launch=lambda what, dtype, device: self.launched.append((name, image, device.index))
        )


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    return Gpus(monkeypatch)


def library(folder: Path, sizes: list[int] = SIZES, names: list[str] = NAMES, word: int = 0x6627E8D5) -> Path:
    """A CPU library whose kernels do nothing, but for the first words of the first stream."""
    assert COMPILER is not None
    words = f"unsigned w[] = {{{word}u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u}};"
    body = f"{words} for (int i = 0; i < 4; i++) ((long long*)((void**)p)[2])[i] = w[i];"
    functions = [f"void noisegan_{name}(void* p, int) {{ {body if name == 'philox' else ''} }}" for name in names]
    values = ", ".join(map(str, sizes))
    source = folder / "cpu.cpp"
    source.write_text(
        f'extern "C" {{ long long noisegan_sizeof(int k) {{ long long s[] = {{{values}}}; return s[k]; }}\n'
        + "\n".join(functions)
        + "}\n"
    )
    out = folder / "lib.so"
    assert toolchain._output(*COMPILER.command, "-shared", "-fPIC", "-o", str(out), str(source)) is not None
    return out


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_a_cpu_library_is_checked_before_it_is_used(tmp_path: Path) -> None:
    for number, (given, message) in enumerate(
        [
            ({}, None),
            (
                {"sizes": [SIZES[0] + 8, *SIZES[1:]]},
                rf"takes {SIZES[0] + 8} bytes for bias_act, not {SIZES[0]}: it was",
            ),
            ({"names": NAMES[1:]}, r"cannot load .*lib\.so: .*noisegan_bias_act"),
            ({"word": 5}, r"lib\.so computes nonsense; remove it with noisegan ext clean and try again"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = library(folder, **given)  # type: ignore[arg-type]
        if message is None:
            assert CpuKernels(path).name == "native"
        else:
            with pytest.raises(BuildError, match=message):
                CpuKernels(path)
    (tmp_path / "text.so").write_bytes(b"no library")
    with pytest.raises(
        BuildError, match=r"cannot load .*text\.so: .*; remove it with noisegan ext clean and try again"
    ):
        CpuKernels(tmp_path / "text.so")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_on_a_cpu_the_library_is_loaded_once(caplog: pytest.LogCaptureFixture) -> None:
    kernels = kernels_for("cpu")
    assert isinstance(kernels, CpuKernels)
    assert kernels_for("cpu") is kernels
    assert backend_of("cpu") == "native"
    assert load.choose("cpu").why == "a C++ library for this processor"
    assert caplog.messages == []


@pytest.mark.usefixtures("impossible")
def test_what_is_missed_is_told_once_per_process(caplog: pytest.LogCaptureFixture, gpus: Gpus) -> None:
    assert kernels_for("cpu") is None
    assert backend_of("cpu") == "reference"
    assert load.choose("cpu").why == "there is no compiler; install one"
    gpus.nvcc = gpus.nvrtc = False
    assert kernels_for("cuda") is None
    assert load.choose("cuda").why == "no NVRTC; no nvcc"
    assert caplog.messages == [
        "noisegan: CPU operations run in their slower PyTorch forms: there is no compiler; install one "
        "(NOISEGAN_EXT=ref accepts that)"
    ]


@pytest.mark.usefixtures("impossible")
def test_values_of_the_variable_on_a_cpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(load.VARIABLE, "ref")
    assert kernels_for("cpu") is None
    assert load.choose("cpu").why == "NOISEGAN_EXT=ref"
    assert caplog.messages == []
    load.forget()
    monkeypatch.setenv(load.VARIABLE, "native")
    message = "NOISEGAN_EXT=native cannot be had for CPU tensors: there is no compiler; install one"
    for _ in range(2):  # and again: the reference must not slip in
        with pytest.raises(NoiseganError) as error:
            kernels_for("cpu")
        assert str(error.value) == message
    monkeypatch.setenv(load.VARIABLE, "nvrtc")
    assert kernels_for("cpu") is None
    assert len(caplog.messages) == 1


def test_other_devices_run_the_reference(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(load.VARIABLE, "native")
    assert kernels_for("mps") is None
    assert load.choose("mps").why == "there are no kernels for mps devices"
    assert caplog.messages == []


@pytest.mark.parametrize(("value", "hint"), [("nativ", "; did you mean 'native'?"), ("x", "; set it to one of these")])
def test_an_unknown_value_is_refused(monkeypatch: pytest.MonkeyPatch, value: str, hint: str) -> None:
    monkeypatch.setenv(load.VARIABLE, value)
    with pytest.raises(NoiseganError) as error:
        kernels_for("cpu")
    assert str(error.value).startswith(f"NOISEGAN_EXT={value} is none of auto, native, nvrtc, ref{hint}")


@pytest.mark.parametrize(
    ("mode", "built", "missing", "expected"),
    [
        ("auto", False, "", "nvrtc"),
        ("auto", True, "", "native"),
        ("auto", True, "nvcc", "native"),
        ("auto", False, "nvrtc", "native"),
        ("auto", False, "nvcc nvrtc", "reference"),
        ("native", False, "", "native"),
        ("nvrtc", True, "", "nvrtc"),
        ("ref", True, "", "reference"),
    ],
)
def test_order_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, gpus: Gpus, mode: str, built: bool, missing: str, expected: str
) -> None:
    monkeypatch.setenv(load.VARIABLE, mode)
    gpus.built = [(9, 0)] if built else []
    gpus.nvcc, gpus.nvrtc = "nvcc" not in missing, "nvrtc" not in missing
    assert backend_of("cuda") == expected


def test_an_image_that_the_driver_refuses_gives_way(gpus: Gpus) -> None:
    gpus.built = [(9, 0)]
    gpus.loadable = [b"nvrtc"]
    assert backend_of("cuda") == "nvrtc"


@pytest.mark.parametrize("mode", ["native", "nvrtc"])
def test_what_a_gpu_cannot_have(monkeypatch: pytest.MonkeyPatch, gpus: Gpus, mode: str) -> None:
    monkeypatch.setenv(load.VARIABLE, mode)
    gpus.nvcc = gpus.nvrtc = False
    tool = {"native": "nvcc", "nvrtc": "NVRTC"}[mode]
    with pytest.raises(NoiseganError, match=f"NOISEGAN_EXT={mode} cannot be had for CUDA tensors: no {tool}"):
        kernels_for("cuda")


def test_gpus_of_two_kinds_get_an_image_each(gpus: Gpus) -> None:
    kernels = kernels_for("cuda")
    assert kernels is not None
    what = params.Philox()
    for device in ("cuda:1", "cuda:0", "cuda:1", "cuda"):
        kernels.launch(what, torch.float32, torch.device(device))
    assert gpus.launched == [
        ("nvrtc", b"nvrtc 86", 1),
        ("nvrtc", b"nvrtc 90", 0),
        ("nvrtc", b"nvrtc 86", 1),
        ("nvrtc", b"nvrtc 90", None),
    ]


def test_a_second_gpu_without_kernels_gets_the_reference_and_one_line(
    gpus: Gpus, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = kernels_for("cuda")
    assert kernels is not None
    gpus.nvrtc = False  # from here on no image can be made
    for _ in range(2):
        with pytest.raises(BuildError, match="no NVRTC"):
            kernels.launch(params.Philox(), torch.float32, torch.device("cuda:1"))
    assert [record.message for record in caplog.records if "cuda:1" in record.message] == [
        "noisegan: operations on cuda:1 run in their slower PyTorch forms: no NVRTC"
    ]


def test_an_operation_whose_kernels_cannot_be_had_runs_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*_: object) -> None:
        raise BuildError("no NVRTC")

    monkeypatch.setattr(load, "kernels_for", lambda kind: SimpleNamespace(name="nvrtc", launch=launch))
    x = torch.tensor([[-1.0, 2.0]])
    y = ops._run("bias_act", "cuda", x, None, None, None, None, None, [], None, 0.2, 1.0, torch.inf)
    torch.testing.assert_close(y, torch.tensor([[-0.2, 2.0]]))


def test_a_driver_that_does_not_answer_is_told_and_not_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def capability(index: int = 0) -> tuple[int, int]:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    assert kernels_for("cuda") is None
    assert load.choose("cuda").why == "the driver is too old"
    assert "the driver is too old" in caplog.text
