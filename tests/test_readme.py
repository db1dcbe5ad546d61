"""Whatever the README shows is run: each command in order, and the Python example, at the smallest size."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from comparing import inline  # noqa: F401

import noisegan
from noisegan.cli import main
from noisegan.compare.experiment import read_experiment
from noisegan.manager import Plugins

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line
]
SMALLER = shlex.split("--kimg 0.008 --batch 4 --tick 0.004 --cbase 64 --cmax 8 --z-dim 8 --w-dim 8 --map-depth 2")


def smaller_comparison(arguments: list[str], folder: Path) -> list[str]:
    """A comparison of a few images; the file of one is copied, with smaller numbers."""
    if not arguments[1].endswith(".toml"):
        return [*arguments, *shlex.split("--replicates 1 --kimg 0.008 --samples 8 --real-samples 16 --resolution 8")]
    text = (ROOT / arguments[1]).read_text()
    for name, value in {"replicates": 1, "kimg": 0.008, "batch": 4, "samples": 8}.items():
        text = re.sub(rf"(?m)^{name} = \S+", f"{name} = {value}", text)
    path = folder / arguments[1]
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "real_samples = 16\n")
    return arguments


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    assert len(COMMANDS) >= 12
    for line in COMMANDS:
        program, *arguments = shlex.split(line)
        assert program == "noisegan", line
        if arguments[0] == "train" and "--resume" not in arguments:
            arguments += SMALLER
        if arguments[0] == "compare":
            arguments = smaller_comparison(arguments, tmp_path)
        if arguments[0] == "project":
            arguments += shlex.split("--steps 2")
        if arguments[0] == "metrics":
            arguments += shlex.split("--samples 8 --real-samples 16")
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


def test_the_experiment_of_the_readme_is_one(tmp_path: Path, plugins: Plugins) -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "e.toml"
    path.write_text(shown)
    assert len(read_experiment(path).resolve(plugins).variants) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_the_comparison_in_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "noisegan.compare" in block
    )
    evaluation = '"evaluation": {"samples": 8, "real_samples": 16}'
    smaller = f'"kimg": 0.008, "batch": 4, "resolution": 8}}, "replicates": 1, {evaluation}'
    assert '"kimg": 2}' in example
    exec(compile(example.replace('"kimg": 2}', smaller), "README.md", "exec"), {"noisegan": noisegan})
    assert "one replicate gives no interval" in capsys.readouterr().out
