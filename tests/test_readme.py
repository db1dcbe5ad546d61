"""Whatever the README shows is run: each command in order, and the Python example, at the smallest size."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from noisegan.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line
]
SMALLER = shlex.split("--kimg 0.008 --batch 4 --tick 0.004 --cbase 64 --cmax 8 --z-dim 8 --w-dim 8 --map-depth 2")


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    assert len(COMMANDS) >= 12
    for line in COMMANDS:
        program, *arguments = shlex.split(line)
        assert program == "noisegan", line
        if arguments[0] == "train" and "--resume" not in arguments:
            arguments += SMALLER
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0, line
    assert (tmp_path / "noisegan-wobble" / "pyproject.toml").is_file()
    assert (tmp_path / "mixed" / "0-10.png").is_file()


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "TrainConfig" in block)
    smaller = "kimg=0.008, batch=4, cbase=64, cmax=8"
    assert "kimg=20" in example
    names: dict[str, object] = {}
    exec(compile(example.replace("kimg=20", smaller), "README.md", "exec"), names)
    images = names["images"]
    assert tuple(images.shape) == (4, 1, 32, 32)  # type: ignore[attr-defined]


def test_the_class_of_the_readme_is_the_one_of_the_contract() -> None:
    from noisegan import api

    (shown,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Jitter" in block)
    documented = "\n".join(line.strip() for line in (api.__doc__ or "").splitlines())
    for line in shown.splitlines():
        assert line.strip() in documented, line
