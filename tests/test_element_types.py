"""Float16 in software, for compilers without the type: every number there is, and the rounding of others."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from noisegan.ext import build, toolchain

SOURCE = """
#include "element.h"
extern "C" void widen_all(const unsigned short* in, float* out, long n) {
  for (long i = 0; i < n; ++i) out[i] = widen(f16{in[i]});
}
extern "C" void narrow_all(const float* in, unsigned short* out, long n) {
  for (long i = 0; i < n; ++i) out[i] = narrow<f16>(in[i]).bits;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compilers = list(toolchain.compilers())
    if not compilers:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("f16")
    (folder / "f16.cpp").write_text(SOURCE)
    command = [*compilers[0].command, "-std=c++17", "-O2", "-shared", "-fPIC", "-DNG_SOFTWARE_F16", f"-I{build.CSRC}"]
    subprocess.run([*command, str(folder / "f16.cpp"), "-o", str(folder / "f16.so")], check=True)
    return ctypes.CDLL(str(folder / "f16.so"))


def pointer(values: np.ndarray) -> ctypes.c_void_p:  # type: ignore[type-arg]
    return ctypes.c_void_p(values.ctypes.data)


def test_every_number_widens_and_comes_back(library: ctypes.CDLL, tmp_path: Path) -> None:
    words = np.arange(2**16, dtype=np.uint16)
    wide, back = np.empty(2**16, np.float32), np.empty(2**16, np.uint16)
    library.widen_all(pointer(words), pointer(wide), ctypes.c_long(2**16))
    expected = words.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(wide, expected)
    library.narrow_all(pointer(wide), pointer(back), ctypes.c_long(2**16))
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(back[numbers], words[numbers])
    assert np.isnan(back[~numbers].view(np.float16)).all()


def test_other_numbers_round_to_nearest_even(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (halves[:-1] + halves[1:]) / 2  # ties, up to the largest number
    wild = rng.integers(0, 0x7F800000, 200_000, dtype=np.uint32).view(np.float32)
    usual = (rng.normal(size=200_000) * 2.0 ** rng.integers(-30, 18, 200_000)).astype(np.float32)
    limits = np.array([65519.99, 65520, 65536, np.inf, -np.inf, -0.0], np.float32)
    values = np.concatenate([wild, -wild, usual, middles.astype(np.float32), limits])
    found = np.empty(len(values), np.uint16)
    library.narrow_all(pointer(values), pointer(found), ctypes.c_long(len(values)))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found, values.astype(np.float16).view(np.uint16))
