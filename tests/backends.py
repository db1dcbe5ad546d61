"""Lets a test run on a chosen backend, in this process, or on the native kernels themselves."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from noisegan.ext import load, params


@contextmanager
def backend(name: str) -> Iterator[None]:
    """`ref` or `native`, as NOISEGAN_EXT takes them; afterwards as it was."""
    before = os.environ.get("NOISEGAN_EXT")
    os.environ["NOISEGAN_EXT"] = name
    load.forget()
    try:
        assert load.backend_of("cpu") == {"ref": "reference", "native": "native"}[name]
        yield
    finally:
        os.environ.pop("NOISEGAN_EXT")
        if before is not None:
            os.environ["NOISEGAN_EXT"] = before
        load.forget()


def native_kernels() -> load.Kernels:
    """Those of the CPU library; the test is skipped where there is nothing to build it with."""
    kernels = load.kernels_for("cpu")
    if kernels is None:
        pytest.skip("no C++ compiler: there is no native library")
    return kernels


@contextmanager
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the library's kernels for convolutions that are launched meanwhile."""
    names: list[str] = []
    launch = load.CpuKernels.launch

    def noted(self: load.CpuKernels, what: ctypes.Structure, dtype: torch.dtype, device: torch.device) -> None:
        if type(what) not in params.KERNELS:
            names.append(params.CPU_KERNELS[type(what)])
        launch(self, what, dtype, device)

    with monkeypatch.context() as patch:
        patch.setattr(load.CpuKernels, "launch", noted)
        yield names
