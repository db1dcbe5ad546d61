"""The short cut that many tests take to a command leads where the long way does."""

from __future__ import annotations

import signal
from pathlib import Path

import forking
import pytest
from training import started


@pytest.mark.parametrize("data", ["digits", "nothing"])
def test_a_forked_command_does_what_a_started_one_does(data: str, tmp_path: Path) -> None:
    words = ("train", "--dry-run", "--data", data, "--outdir", str(tmp_path))
    short, long = forking.run(*words), started(*words)
    assert (short.returncode, short.stdout, short.stderr) == (long.returncode, long.stdout, long.stderr)
    assert short.returncode == (0 if data == "digits" else 2)


def test_it_hears_signals_and_gets_variables(tmp_path: Path) -> None:
    command = forking.Forked("train", "--data", "digits", "--outdir", str(tmp_path), WORLD_SIZE="2")
    assert "RANK and LOCAL_RANK are not whole numbers" in command.communicate(timeout=forking.PATIENCE_S)[1]
    command = forking.Forked("train", "--data", "digits", "--outdir", str(tmp_path))
    command.kill()
    assert (command.communicate(timeout=forking.PATIENCE_S), command.returncode) == (("", ""), -signal.SIGKILL)


def test_what_counts_when_a_process_starts_cannot_be_changed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    forking.run("--version")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert forking.run("--version").returncode == 0  # one thread, as always
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    with pytest.raises(AssertionError, match="PYTHONPATH counts at the start: start a process"):
        forking.run("--version")
