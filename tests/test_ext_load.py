"""Which kernels are chosen on which device under every value of NOISEGAN_EXT, and what is said when it is none."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from noisegan.errors import NoiseganError
from noisegan.ext import build, declare, load, params, toolchain
from noisegan.ext.build import BuildError
from noisegan.ext.load import CpuKernels, backend_of, kernels_for

COMPILER = next(toolchain.compilers(), None)
NAMES = list(params.CPU_KERNELS.values())
SIZES = [ctypes.sizeof(struct) for struct in params.CPU_KERNELS]


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
        self.capabilities = [(9, 0), (9, 0)]
        self.built: list[tuple[int, int]] = []
        self.nvcc = self.nvrtc = True
        self.loadable = [b"nvcc", b"nvrtc"]
        self.launched: list[tuple[str, bytes, int]] = []
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(self.capabilities))
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

    def run(self, *devices: str) -> list[tuple[str, bytes, int]]:
        """Launch a kernel on each of these devices; gives what has been launched since the start."""
        kernels = kernels_for("cuda")
        assert kernels is not None
        for device in devices:
            kernels.launch(params.Philox(), torch.float32, torch.device(device))
        return self.launched


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    return Gpus(monkeypatch)


@pytest.fixture
def mixed(gpus: Gpus) -> Gpus:
    """GPUs of two kinds."""
    gpus.capabilities = [(9, 0), (8, 6)]
    return gpus


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


def test_a_file_system_that_runs_no_programs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.so").write_bytes(b"no library")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC | os.ST_NOSUID))
    with pytest.raises(BuildError, match=r"cannot load .*; its file system runs no programs: set NOISEGAN_CACHE to a"):
        CpuKernels(tmp_path / "text.so")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_a_damaged_library_is_built_again_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library(tmp_path)
    monkeypatch.setattr(build, "CSRC", tmp_path)
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "cache"))
    path = build.cpu_library()
    content = path.read_bytes()
    path.write_bytes(b"no library")
    assert backend_of("cpu") == "native"
    assert path.read_bytes() == content
    assert caplog.messages == ["noisegan: building its CPU operations (once, some seconds) ..."] * 2


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
    with pytest.raises(NoiseganError, match=f"NOISEGAN_EXT={mode} cannot be had for cuda:0 tensors: no {tool}"):
        kernels_for("cuda")


def test_gpus_of_two_kinds_get_an_image_each(mixed: Gpus) -> None:
    assert mixed.run("cuda:1", "cuda:0", "cuda:1", "cuda") == [
        ("nvrtc", b"nvrtc 86", 1),
        ("nvrtc", b"nvrtc 90", 0),
        ("nvrtc", b"nvrtc 86", 1),
        ("nvrtc", b"nvrtc 90", None),
    ]


def test_what_was_built_for_one_gpu_says_nothing_about_another(mixed: Gpus) -> None:
    mixed.built = [(9, 0)]
    mixed.nvcc = False
    assert mixed.run("cuda:0", "cuda:1") == [("native", b"nvcc 90", 0), ("nvrtc", b"nvrtc 86", 1)]
    assert [backend_of(device) for device in ("cuda", "cuda:0", "cuda:1")] == ["native", "native", "nvrtc"]
    assert load.choose("cuda:1").why == "an image compiled by torch's NVRTC"


@pytest.mark.parametrize("lucky", [0, 1])
def test_a_gpu_without_kernels_gets_the_reference_and_one_line(
    mixed: Gpus, caplog: pytest.LogCaptureFixture, lucky: int
) -> None:
    """Be it the current one or not."""
    mixed.built = [mixed.capabilities[lucky]]
    mixed.nvcc = mixed.nvrtc = False
    other = f"cuda:{1 - lucky}"
    for _ in range(2):
        with pytest.raises(BuildError, match="no NVRTC; no nvcc"):
            mixed.run(f"cuda:{lucky}", other)
    assert [index for *_, index in mixed.launched] == [lucky, lucky]
    assert (backend_of(f"cuda:{lucky}"), backend_of(other)) == ("native", "reference")
    assert caplog.messages == [f"noisegan: operations on {other} run in their slower PyTorch forms: no NVRTC; no nvcc"]


@pytest.mark.parametrize("mode", ["native", "nvrtc"])
def test_what_a_second_gpu_cannot_have_is_an_error_in_its_operations(
    monkeypatch: pytest.MonkeyPatch, mixed: Gpus, mode: str
) -> None:
    monkeypatch.setenv(load.VARIABLE, mode)
    mixed.run("cuda:0")
    mixed.nvcc = mixed.nvrtc = False
    message = f"NOISEGAN_EXT={mode} cannot be had for cuda:1 tensors: no {mode.replace('native', 'nvcc')}"
    for _ in range(2):
        with pytest.raises(NoiseganError, match=f"(?i)^{message}$") as error:
            mixed.run("cuda:1")
        assert not isinstance(error.value, BuildError)  # for which operations run the reference
    assert backend_of("cuda") == mode
    with pytest.raises(NoiseganError, match=f"(?i)^{message}$"):
        backend_of("cuda:1")


def test_an_operation_whose_kernels_cannot_be_had_runs_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*_: object) -> None:
        raise BuildError("no NVRTC")

    monkeypatch.setattr(load, "kernels_for", lambda kind: SimpleNamespace(name="nvrtc", launch=launch))
    x = torch.tensor([[-1.0, 2.0]])
    y = declare.run("bias_act", x, None, None, None, None, None, [], None, 0.2, 1.0, torch.inf)
    torch.testing.assert_close(y, torch.tensor([[-0.2, 2.0]]))


def test_a_driver_that_does_not_answer_is_told_and_not_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def capability(index: int = 0) -> tuple[int, int]:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    assert kernels_for("cuda") is None
    assert load.choose("cuda").why == "the driver is too old"
    assert "the driver is too old" in caplog.text
