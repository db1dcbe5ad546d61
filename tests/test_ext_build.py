"""Building native operations: once for all that they depend on, with the compilers there are, or one sentence."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import building
import pytest
from building import SOURCE, answer, hidden, refused

from noisegan.errors import NoiseganError
from noisegan.ext import build, cache, toolchain
from noisegan.ext.cache import BuildError

pytestmark = building.pytestmark
sources = building.sources


def test_a_library_is_built_once_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    path = build.cpu_library()
    assert path.is_relative_to(cache.folder())
    assert answer(path) == 42
    assert caplog.messages == ["noisegan: building its CPU operations (once, some seconds) ..."]
    before = path.stat().st_mtime_ns
    assert build.cpu_library() == path
    assert path.stat().st_mtime_ns == before
    assert len(caplog.messages) == 1
    assert {file.name for file in path.parent.iterdir()} == {
        *("libnoisegan_cpu.so", "key.json", "build.log", "build.ninja", ".ninja_log")
    }
    assert hidden() == []
    [entry] = cache.entries()
    assert entry.path == path
    assert set(entry.key_parts) == {"sources", "flags", "architecture", "torch", "compiler"}
    assert entry.size > path.stat().st_size


def test_whatever_it_depends_on_makes_another(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [build.cpu_library()]
    (sources / "cpu.cpp").write_text(SOURCE.replace("42", "43"))
    paths.append(build.cpu_library())
    assert answer(paths[-1]) == 43
    (sources / "unused.h").write_text("// a header")
    paths.append(build.cpu_library())
    monkeypatch.setattr(build, "torch_parts", lambda: {"torch": "2.1"})
    paths.append(build.cpu_library())
    monkeypatch.setattr(toolchain, "processor", lambda: "another")
    paths.append(build.cpu_library())
    monkeypatch.setattr(build, "CPU_FLAGS", ("-O0", "-fPIC"))
    paths.append(build.cpu_library())
    monkeypatch.setenv("CXX", f"{next(toolchain.compilers()).command[0]} -DSOMETHING")
    paths.append(build.cpu_library())
    (sources / "readme.txt").write_text("nothing to do with it")
    assert build.cpu_library() == paths[-1]
    assert len(set(paths)) == 7


def test_several_sources_become_one_library(sources: Path) -> None:
    (sources / "cpu_more.cpp").write_text('extern "C" int more() { return 7; }')
    path = build.cpu_library()
    assert answer(path) == 42
    assert ctypes.CDLL(str(path)).more() == 7
    assert not list(path.parent.glob("*.o"))


def test_broken_source_is_one_line_and_a_log(sources: Path) -> None:
    (sources / "cpu.cpp").write_text("int fine;\nint broken(;\n")
    message = refused()
    assert "\n" not in message
    assert "noisegan's operations could not be compiled by " in message
    assert "cpu.cpp:2:12: error: " in message
    [log] = cache.folder().glob("*.log")
    assert message.endswith(f"; the log is {log}")
    assert "broken(;" in log.read_text()
    assert hidden() == []
    assert cache.clean()[0] == 0
    assert not log.exists()


def test_without_a_compiler_what_was_built_before_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = build.cpu_library()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.cpu_library() == path
    cache.clean()
    assert refused() == "there is no C++ compiler (g++, clang++ or c++); install one, for example with apt install g++"
    for command in ("no-such-compiler -x", 'g++ "x'):
        monkeypatch.setenv("CXX", command)
        assert refused() == f"the C++ compiler CXX={command} does not run; mend or unset CXX"


def test_without_ninja(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert toolchain.ninja() is not None
    monkeypatch.setitem(sys.modules, "ninja", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert toolchain.ninja() is None
    monkeypatch.setattr(toolchain, "compilers", lambda: [toolchain.Tool(("g++",), "1")])
    assert refused() == "ninja is missing; pip install ninja"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOMEM])
def test_a_ninja_that_does_not_start_is_not_taken_for_a_bad_cache(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def refuse(command: Sequence[str], **options: Any) -> Any:
        if "cwd" in options:
            raise OSError(number, os.strerror(number))
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(cache, "_private_folder", None)
    assert refused() == (
        f"{toolchain.ninja()} does not start: {os.strerror(number)}; try again, and if it stays so, "
        "pip install --force-reinstall ninja"
    )


def test_a_compiler_that_fails_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    good = next(toolchain.compilers())
    monkeypatch.setattr(toolchain, "compilers", lambda: [toolchain.Tool(("false",), "false 1"), good])
    assert answer(build.cpu_library()) == 42
    monkeypatch.setattr(toolchain, "compilers", lambda: [toolchain.Tool(("false",), "false 1")])
    cache.clean()
    assert "could not be compiled by false 1: it gave no reason; the log is" in refused()


def test_a_toolkit_is_found_behind_a_wrapper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def script(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    kit = tmp_path / "the toolkit"
    nvcc = kit / "bin" / "nvcc"
    script(nvcc, f'if [ "$1" = --dryrun ]; then echo "#$ TOP={kit}/bin/.."; else echo "release 13.0, V13.0.88"; fi')
    (kit / "include").mkdir()
    (kit / "include" / "cuda_runtime.h").touch()
    script(tmp_path / "local" / "bin" / "nvcc", f'exec "{nvcc}" "$@"')
    (tmp_path / "links" / "bin").mkdir(parents=True)
    (tmp_path / "links" / "bin" / "nvcc").symlink_to(nvcc)
    (tmp_path / "headless" / "bin").mkdir(parents=True)
    shutil.copy(nvcc, tmp_path / "headless" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "headless"))  # bin/nvcc without headers is no toolkit
    found = toolchain.Tool((str(nvcc),), "13.0.88")
    for place in ("local", "links"):
        monkeypatch.setenv("PATH", f"{tmp_path / place / 'bin'}:{os.environ['PATH']}")
        assert toolchain.cuda_toolkit.__wrapped__() == found
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_PATH", str(kit))
    assert toolchain.cuda_toolkit.__wrapped__() == found


def test_images_for_gpus(sources: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (sources / "kernels.cu").write_text("// kernels")
    nvcc = tmp_path / "nvcc"
    nvcc.write_text('#!/bin/sh\nfor last; do :; done\nwhile [ "$1" != -o ]; do shift; done\ncp "$last" "$2"\n')
    nvcc.chmod(0o755)
    monkeypatch.setattr(toolchain, "cuda_toolkit", lambda: toolchain.Tool((str(nvcc),), "13.0"))
    assert build.built_cuda_image((9, 0)) is None
    path = build.cuda_image((9, 0))
    assert path.name == "kernels_sm_90.cubin"
    assert path.read_text() == "// kernels"
    assert build.cuda_image((12, 0)) != path
    monkeypatch.setattr(toolchain, "cuda_toolkit", lambda: None)  # as on another machine that shares the cache
    assert build.built_cuda_image((9, 0)) == build.cuda_image((9, 0)) == path
    with pytest.raises(
        BuildError, match=r"no CUDA toolkit with bin/nvcc and include/cuda_runtime\.h; .* set CUDA_HOME"
    ):
        build.cuda_image((8, 0))
    (sources / "kernels.cuh").write_text("// changed")
    assert build.built_cuda_image((9, 0)) is None


@pytest.mark.parametrize("text", ["sm_90", "9.0", "90"])
def test_architectures(text: str) -> None:
    assert build.parse_architecture(text) == (9, 0)
    assert build.parse_architecture("sm_120") == build.parse_architecture("12.0") == (12, 0)
    with pytest.raises(NoiseganError, match=r"'hopper' is no GPU architecture; write for example sm_90 or 9\.0"):
        build.parse_architecture("hopper")


def test_windows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert refused() == "noisegan's CPU operations are not built on Windows; WSL has them"
