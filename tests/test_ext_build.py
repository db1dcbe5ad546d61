"""Building and keeping native operations: once, whole or not at all, whatever happens to builders, disks and compilers.

A tiny source stands in for the real ones where only the way through ninja and the cache matters.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import noisegan.ext
from noisegan.errors import NoiseganError
from noisegan.ext import build, cache, toolchain
from noisegan.ext.cache import BuildError, cached

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


def test_of_two_processes_one_builds_and_both_load(sources: Path, slow: Path) -> None:
    with builder(sources) as first:
        until((slow / "started").exists, first)
        with builder(sources) as second:
            assert second.stderr is not None
            assert f"waiting for process {first.pid} on " in second.stderr.readline()
            (slow / "go").touch()
            paths = [process.communicate()[0].strip() for process in (first, second)]
    assert paths[0] == paths[1]
    assert answer(Path(paths[0])) == 42
    assert (slow / "started").read_text().count("x") == 2  # compile and link
    assert hidden() == []


def test_a_killed_builder_leaves_nothing_that_matters(sources: Path, slow: Path) -> None:
    with builder(sources) as process:
        until((slow / "started").exists, process)
        process.kill()
    assert len(hidden()) == 2
    (slow / "go").touch()
    assert answer(build.cpu_library()) == 42
    assert hidden() == []


def test_a_sweep_spares_the_living(tmp_path: Path) -> None:
    root = cache.folder()
    for name in ("alive", "dead"):
        (root / f".{name}.1234").mkdir(parents=True)
    with (root / ".alive.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cached({}, "other", lambda folder: (folder / "other").touch())
        assert sorted(hidden()) == [".alive.1234", ".alive.lock"]
        assert cache.clean()[0] == 1
        assert sorted(hidden()) == [".alive.1234", ".alive.lock"]
    assert cache.clean() == (0, 0)
    assert list(root.iterdir()) == []


def test_a_sweep_spares_a_lock_that_changes_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder lets it go, and another builder takes it, between the sweep's opening it and locking it."""
    root = cache.folder()
    (root / ".x.1234").mkdir(parents=True)
    lock, flock = root / ".x.lock", cache._flock
    lock.touch()
    living = ExitStack()

    def in_between(handle: int) -> bool | None:
        monkeypatch.setattr(cache, "_flock", flock)
        lock.unlink()
        living.enter_context(cache._locked(lock))
        return flock(handle)

    monkeypatch.setattr(cache, "_flock", in_between)
    with living:
        cache._sweep(root)
        assert cache._flock is flock
        assert sorted(hidden()) == [".x.1234", ".x.lock"]
    cache._sweep(root)
    assert hidden() == []


def test_a_builder_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LOCK_LIMIT_S", 0.1)
    cache.folder().mkdir(parents=True)
    path = cache.folder() / f".{cache._name({}, 'x')}.lock"
    with path.open("w") as lock:
        lock.write("process 77 on there")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BuildError) as error:
            cached({}, "x", lambda folder: None)
    assert str(error.value) == (
        "process 77 on there has been building noisegan's operations for more than 0.1 s and holds the lock "
        f"{path}; stop it and try again"
    )


def test_without_locks_it_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "fcntl", None)
    assert answer(build.cpu_library()) == 42
    assert answer(build.cpu_library()) == 42
    assert hidden() == []


def test_an_entry_that_lost_its_file_is_made_again() -> None:
    path = build.cpu_library()
    path.unlink()
    assert cache.entries() == []
    assert build.cpu_library() == path
    assert answer(path) == 42
    (path.parent / "key.json").write_text("damaged")
    assert cache.entries() == []


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-100] + bytes(100)])
def test_an_entry_that_was_damaged_is_made_again(damage: Callable[[bytes], bytes]) -> None:
    path = build.cpu_library()
    content = path.read_bytes()
    path.unlink()  # where it is loaded it stays as it was
    path.write_bytes(damage(content))
    [entry] = cache.entries()
    assert not entry.intact
    assert cache.find(path.name, entry.key_parts) is None
    assert build.cpu_library() == path
    assert path.read_bytes() == content
    assert cache.find(path.name, entry.key_parts) == path


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
@pytest.mark.usefixtures("private")
def test_a_cache_that_cannot_be_written_means_a_build_for_this_process(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = cache.temporary_folder

    def bad(parent: Path, prefix: str) -> object:
        if parent == cache.folder():
            raise OSError(number, os.strerror(number))
        return good(parent, prefix)

    monkeypatch.setattr(cache, "temporary_folder", bad)
    path = build.cpu_library()
    assert answer(path) == 42
    assert path.is_relative_to(cache._private_folder())
    assert build.cpu_library() == path
    assert len(caplog.messages) == 2  # the folder and the build, once each
    assert f"cannot write {cache.folder()}: {os.strerror(number)}; " in caplog.messages[0]
    assert "(NOISEGAN_CACHE)" in caplog.messages[0]


@pytest.mark.parametrize("reason", ["No space left on device", "Disk quota exceeded"])
@pytest.mark.usefixtures("private")
def test_a_disk_that_fills_while_compiling_is_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    real = next(toolchain.compilers()).command[0]
    script = tmp_path / "full"
    script.write_text(
        f'#!/bin/sh\ncase "$PWD" in "{tmp_path}"*) echo "fatal error: x.s: {reason}" >&2; exit 1;; esac\n'.replace(
            "$cache", "\\$cache"
        )
        + f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert answer(build.cpu_library()) == 42
    monkeypatch.setattr(cache, "_private_folder", lambda: tmp_path / "private")
    (tmp_path / "private").mkdir()
    with pytest.raises(NoiseganError, match=f"cannot write .*/private: {reason}; free some space"):
        build.cpu_library()


def test_errors_of_the_work_itself_are_not_taken_for_a_full_disk() -> None:
    def make(folder: Path) -> None:
        raise OSError("libnvrtc.so: cannot open shared object file")

    with pytest.raises(OSError, match="libnvrtc"):
        cached({}, "x", make)
    assert hidden() == []


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
