"""`noisegan` commands without the seconds that each start costs: one process has imported everything, and forks.

What a test says about a command holds for a forked process as for one that was started: it is a process of its own,
with a number, signals, limits, an exit status and files as standard output. Starting itself is tested where commands
are started afresh (`training.started`, and tests that call `sys.executable`), and all workers of comparisons are. What
such processes share is the order of sets (PYTHONHASHSEED): where that counts, a run of another process is compared.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

FIXED = ("LD_", "MALLOC_", "OMP_", "PYTHON")
"""Beginnings of environment variables that count when a process starts: those of the forking process hold."""
PATIENCE_S = 900
"""After this long a process is taken to hang. No promise: a starved virtual machine may be ten times slower."""


class Forked:
    """A running command, `python -m noisegan` with these arguments, as `subprocess.Popen` shows it.

    Args:
        arguments: of the command.
        new_session: it leads a process group of its own.
        fsize: files that it writes may have this many bytes at most.
        environment: variables that it gets beside those of this process.
    """

    def __init__(self, *arguments: str, new_session: bool = False, fsize: int | None = None, **environment: str):
        variables = dict(os.environ) | {"OMP_NUM_THREADS": "1"} | environment
        server, begun_with = _server()
        for name in variables.keys() | begun_with.keys():
            if name.startswith(FIXED):
                assert variables.get(name) == begun_with.get(name), f"{name} counts at the start: start a process"
        request = {
            "arguments": arguments,
            "environment": variables,
            "folder": str(Path.cwd()),
            "new_session": new_session,
            "fsize": fsize,
        }
        self._files = [tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2)]  # noqa: SIM115
        self._connection, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(server, [b"."], [theirs.fileno(), *(file.fileno() for file in self._files)])
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        self._answers = self._connection.makefile("r")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; standard output and standard error."""
        if self.returncode is None and not select.select([self._connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("noisegan", timeout or 0)
        self.poll()
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        return texts[0], texts[1]


def run(*arguments: str, timeout_s: float = PATIENCE_S, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command from its beginning to its end."""
    process = Forked(*arguments, **environment)
    try:
        output, error = process.communicate(timeout_s)
    except BaseException:
        process.kill()
        raise
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, output, error)


@cache
def _server() -> tuple[socket.socket, dict[str, str]]:
    """The socket of this process's forking process, and the variables that it began with."""
    ours, theirs = socket.socketpair()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environment,
            start_new_session=True,  # Ctrl-C comes to the tests alone
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours, dict(environment)


# --- the forking process


def serve(control: socket.socket) -> bool:
    """Fork a child for each request, and tell of its end. Returns whether this process is such a child."""
    children: dict[int, socket.socket] = {}
    while True:
        if select.select([control], [], [], 0.01 if children else None)[0]:
            asked, descriptors, _, _ = socket.recv_fds(control, 1, 3)
            if not asked:
                return False  # the tests are over
            connection = socket.socket(fileno=descriptors[0])
            with connection.makefile("r") as lines:
                request = json.loads(lines.readline())
            child = os.fork()
            if child == 0:
                for other in (control, connection, *children.values()):
                    other.close()
                _become(request, descriptors[1:])
                return True
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            connection.sendall(f"{child}\n".encode())
            children[child] = connection
        for child, connection in list(children.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del children[child]
                with connection:
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Make of this process what `python -m noisegan` would be."""
    if request["new_session"]:
        os.setsid()
    for target, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, target)
        os.close(descriptor)
    if request["fsize"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["fsize"], request["fsize"]))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv[1:] = request["arguments"]
    importlib.import_module("numpy").random.seed()  # a new process has another state each time


def prepare() -> None:
    """Import what commands import."""
    from noisegan.cli import COMMANDS
    from noisegan.manager import BUILT_IN

    for name in (*(module for module, _ in COMMANDS.values()), *BUILT_IN):
        importlib.import_module(name)
    tasks = Path("/proc/self/task")
    assert not tasks.exists() or len(list(tasks.iterdir())) == 1, "a process with threads cannot be forked safely"


if __name__ == "__main__":
    prepare()
    if serve(socket.socket(fileno=int(sys.argv[1]))):
        runpy.run_module("noisegan", run_name="__main__", alter_sys=True)
