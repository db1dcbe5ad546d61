"""A tiny source, a cache and a slow compiler: what the tests of building share.

The source stands in for the real ones where only the way through ninja and the cache matters. A file of tests takes
the fixtures over by assignment: `sources = building.sources`.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import noisegan.ext
from noisegan.ext import build, cache, toolchain
from noisegan.ext.cache import BuildError

SOURCE = 'extern "C" int answer() { return 42; }\n'
BUILD = f"""
import sys, types
from pathlib import Path
package = types.ModuleType("noisegan.ext")  # without its __init__, which imports torch
package.__path__ = {list(noisegan.ext.__path__)}
sys.modules["noisegan.ext"] = package
from noisegan.ext import build
build.CSRC = Path(sys.argv[1])
build.torch_parts = lambda: {{"torch": "2.0"}}
print(build.cpu_library())
"""

pytestmark = pytest.mark.skipif(not list(toolchain.compilers()), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources and a cache whose names hold what shells and ninja take for their own."""
    folder = tmp_path / "the $sources: 'here'"
    folder.mkdir()
    (folder / "cpu.cpp").write_text(SOURCE)
    monkeypatch.setattr(build, "CSRC", folder)
    monkeypatch.setattr(build, "torch_parts", lambda: {"torch": "2.0"})
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "the $cache: 'here'"))
    return folder


@pytest.fixture
def private() -> Iterator[None]:
    """The folder of this process alone, made anew and removed."""
    folder = cache._private_folder
    folder.cache_clear()
    yield
    shutil.rmtree(folder())
    folder.cache_clear()


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A compiler that notes each start in the file `started` and goes on when there is a file `go`."""
    real = next(toolchain.compilers()).command[0]
    script = tmp_path / "slow"
    script.write_text(
        f"#!/bin/sh\n[ \"$1\" = --version ] && echo slow 1 && exit\ncd '{tmp_path}' && echo x >> started\n"
        f'while [ ! -e go ]; do sleep 0.02; done\ncd - > /dev/null && exec {real} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    yield tmp_path
    (tmp_path / "go").touch()


def answer(path: Path) -> int:
    return int(ctypes.CDLL(str(path)).answer())


def builder(sources: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(sources)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(condition: object, process: subprocess.Popen[str]) -> None:
    for _ in range(1500):
        if condition():  # type: ignore[operator]
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("it did not come to pass")


def hidden() -> list[str]:
    """Locks and folders of builders."""
    return [path.name for path in cache.folder().iterdir() if path.name.startswith(".")]


def refused() -> str:
    with pytest.raises(BuildError) as error:
        build.cpu_library()
    return str(error.value)
