"""The allocator's settings: made where they help, and not where the user refuses."""

from __future__ import annotations

import ctypes
import os
import sys

import pytest

from noisegan.core import memory
from noisegan.core.distributed import pick_device


class Library:
    """A stand-in for the C library that notes what it is told."""

    def __init__(self, result: int = 1) -> None:
        self.told: list[tuple[int, int]] = []
        self._result = result

    def mallopt(self, name: int, value: int) -> int:
        self.told.append((name, value))
        return self._result


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in list(os.environ):
        if name.startswith("MALLOC_") or name == memory.VARIABLE:
            monkeypatch.delenv(name)
    return library


def test_freed_blocks_stay_with_the_process_on_a_cpu(library: Library) -> None:
    pick_device("cpu")
    assert dict(library.told) == {-4: 0, -1: -1, -2: 64 << 20}


@pytest.mark.parametrize(("name", "value"), [("NOISEGAN_MALLOC", "system"), ("MALLOC_ARENA_MAX", "2")])
def test_the_user_may_refuse(library: Library, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert not memory.keep_freed_memory()
    assert library.told == []


def test_other_systems_are_left_alone(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # musl has no mallopt
    assert not memory.keep_freed_memory()
    assert library.told == []


def test_a_refusing_library_is_no_error(library: Library) -> None:
    library._result = 0
    assert not memory.keep_freed_memory()


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_the_real_library_takes_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MALLOC_") or name == memory.VARIABLE:
            monkeypatch.delenv(name)
    assert memory.keep_freed_memory() == hasattr(ctypes.CDLL(None), "mallopt")
