"""The commands strategies, check and new-plugin, and a plugin from outside, end to end."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from click.testing import CliRunner, Result
from toys import ToyFeature, toy

from noisegan.api import Field, Params
from noisegan.cli import cli, main
from noisegan.cli.new_plugin import write_plugin
from noisegan.cli.strategies import parameters
from noisegan.testing import CHECKS

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]

RIPPLE = Path(__file__).parent.parent / "examples" / "ripple.py"
EXAMPLE = Path(__file__).parents[1] / "examples" / "external_plugin"
BROKEN = """
import noisegan_style_gate as good
from noisegan.api import StrategySpec, hookimpl

class Broken(good.StyleGateNoise):
    def forward(self, x, noise, w):
        return x - x.mean(dim=0) + self.strength * noise

@hookimpl
def register_strategies(register):
    register(StrategySpec(name="broken", params=good.StyleGateParams, summary="s", reference="r",
        identity_at_init=False, feature=lambda site, p: Broken(site, strength=p.strength, openness=p.openness)))
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, env={"COLUMNS": "150"})


def python(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A Python of its own, with `path` in front of what is installed."""
    environment = {**os.environ, "PYTHONPATH": str(path) if path else "", "COLUMNS": "150", "PYTHONWARNINGS": "error"}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and standard error of the program."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert isinstance(stop.value.code, int)
    return stop.value.code, capsys.readouterr().err


# --- strategies


def test_strategies_lists_all_with_parameters_and_origin() -> None:
    result = run("strategies")
    assert result.exit_code == 0, result.output
    for words in ("none", "additive", "fuzzy", "per_channel", ">= 0 and <= 1", "scaled, additive", "built-in"):
        assert words in result.output
    one = run("strategies", "fuzzy")
    assert "ICML 2021" in one.output
    assert "additive noise" not in one.output
    assert "per_channel" not in one.output


def test_strategies_as_json() -> None:
    result = run("strategies", "--json")
    found = {item["name"]: item for item in json.loads(result.stdout)}
    assert {"none", "additive", "fuzzy"} <= set(found)
    keys = {"name", "summary", "reference", "points", "identity_at_init", "parameters", "plugin"}
    assert all(set(item) == keys for item in found.values())
    assert [item["name"] for item in found["none"]["parameters"]] == ["placement", "layers"]
    assert found["additive"]["plugin"]["origin"] == "built-in"
    assert found["fuzzy"]["points"] == ["feature"]
    assert found["fuzzy"]["parameters"][0] == {
        "name": "form",
        "type": "string",
        "default": "scaled",
        "minimum": None,
        "maximum": None,
        "minimum_excluded": False,
        "maximum_excluded": False,
        "choices": ["scaled", "additive"],
        "help": "out = r sigma (m + e), or m + r sigma e",
    }


class RangeParams(Params):
    share: float | None = Field(None, gt=0, lt=1, description="a share or none")
    count: int = Field(3, ge=1, description="a count")
    mode: Literal["only"] = Field("only", description="one choice")
    kind: Literal["a", "b"] | None = Field(None, description="a choice or none")
    flag: bool = Field(True, description="a switch")


def test_parameters_are_read_from_the_schema() -> None:
    found = {p["name"]: p for p in parameters(toy(params=RangeParams, feature=lambda site, p: ToyFeature(site)))}

    def pick(name: str, *keys: str) -> list[Any]:
        return [found[name][key] for key in keys]

    bounds = ("type", "minimum", "minimum_excluded", "maximum", "maximum_excluded", "choices")
    assert pick("share", *bounds) == ["number or null", 0, True, 1, True, None]
    assert pick("count", *bounds) == ["integer", 1, False, None, False, None]
    assert pick("mode", "type", "choices", "default") == ["string", ["only"], "only"]
    assert pick("kind", "type", "choices", "default") == ["string or null", ["a", "b", None], None]
    assert pick("flag", "type", "choices", "default") == ["boolean", None, True]


def test_strategies_names_plugins_that_were_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEGAN_DISABLED_PLUGINS", "noisegan.plugins.fuzzy")
    assert "plugin 'noisegan.plugins.fuzzy' was not loaded: disabled by" in run("strategies").output
    as_json = run("strategies", "--json")
    assert "fuzzy" not in {item["name"] for item in json.loads(as_json.stdout)}
    assert "warning: plugin 'noisegan.plugins.fuzzy' was not loaded" in as_json.stderr


def test_mistakes_are_one_sentence_and_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert fails(capsys, "strategies", "fuzy") == (2, "error: unknown noise strategy 'fuzy'; did you mean 'fuzzy'?\n")
    assert fails(capsys, "check", "fuzy")[0] == 2
    status, error = fails(capsys, "check", "none", "--plugin", str(tmp_path / "gone.py"))
    assert (status, error) == (2, f"error: --plugin {tmp_path / 'gone.py'}: there is no such file\n")


# --- check


def test_check_passes_and_exits_0() -> None:
    result = run("check", "none")
    assert result.exit_code == 0
    assert "forward_is_per_sample" in result.output
    assert "FAIL" not in result.output


def test_check_fails_with_reasons_and_exits_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    with pytest.raises(SystemExit) as stop:
        main(["check", "broken", "--plugin", str(path), "--json"])
    assert stop.value.code == 1
    result = run("check", "broken", "--plugin", str(path))
    assert result.exit_code == 1
    assert "do not mix samples" in result.output
    assert "broken: " in result.output.splitlines()[-1]


def test_check_as_json() -> None:
    results = json.loads(run("check", "none", "--json").stdout)
    assert results
    assert all(set(item) == {"strategy", "name", "point", "passed", "detail"} for item in results)
    assert all(item["passed"] for item in results)
    assert {item["name"] for item in results} <= set(CHECKS)


# --- new-plugin


def test_a_new_plugin_passes_its_tests_at_once(tmp_path: Path) -> None:
    result = run("new-plugin", "slow_ripple", "--outdir", str(tmp_path))
    assert result.exit_code == 0, result.output
    folder = tmp_path / "noisegan-slow_ripple"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"pyproject.toml", "README.md", "noisegan_slow_ripple.py", "tests/test_slow_ripple.py"}
    assert not any("$" in path.read_text() for path in folder.rglob("*") if path.is_file())
    tests = python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "passed" in tests.stdout


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("My-Noise", "; write for example my_noise"),
        ("2fast", "; write for example fast"),
        ("../up", "; write for example up"),
        ("ripple2_", "; write for example ripple2\n"),
        ("x_", "; write for example x\n"),
        ("slow__ripple", "; write for example slow_ripple\n"),
        ("_x", "; write for example x\n"),
        ("ripple\n", "; write for example ripple\n"),
        ("42", "digits and single underscores only\n"),
        ("fuzzy", "plugin name 'fuzzy' is taken by a noise strategy of 'noisegan.plugins.fuzzy' (noisegan)"),
    ],
)
def test_new_plugin_refuses_bad_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, sentence: str
) -> None:
    status, error = fails(capsys, "new-plugin", name, "--outdir", str(tmp_path))
    assert status == 2
    assert error.startswith(f"error: plugin name {name!r} ")
    assert sentence in error
    assert not list(tmp_path.iterdir())


def test_new_plugin_refuses_an_existing_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "noisegan-ripple"
    folder.mkdir()
    status, error = fails(capsys, "new-plugin", "ripple", "--outdir", str(tmp_path))
    assert (status, error) == (2, f"error: {folder} exists already; choose another name or another --outdir\n")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", ["x", "x2", "a_2", "slow_ripple_3d"])
def test_every_accepted_name_makes_a_package_name(tmp_path: Path, name: str) -> None:
    folder = write_plugin(name, tmp_path)
    package = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"] if tomllib else folder.name
    assert re.fullmatch(r"([A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9])", package, re.IGNORECASE)  # PEP 508, names
    assert re.sub(r"[-_.]+", "-", package) == f"noisegan-{name}".replace("_", "-")  # PEP 503: no two names are one


@pytest.mark.parametrize("place", ["mkdir", "write_text", "rename"])
def test_new_plugin_leaves_nothing_half_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    original, calls = getattr(Path, place), []

    def sometimes(self: Path, *arguments: Any, **options: Any) -> Any:
        calls.append(self)
        if place == "rename" or len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, place, sometimes)
    status, error = fails(capsys, "new-plugin", "ripple", "--outdir", str(tmp_path))
    assert status == 2
    assert error == (
        f"error: cannot write {tmp_path / 'noisegan-ripple'}: No space left on device; "
        "free some space or choose another place\n"
    )
    assert not list(tmp_path.iterdir())


def test_new_plugin_where_nothing_can_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    status, error = fails(capsys, "new-plugin", "ripple", "--outdir", str(tmp_path / "file" / "below"))
    assert status == 2
    assert error == (
        f"error: cannot write {tmp_path}/file/below/noisegan-ripple: Not a directory; "
        "choose a place that can be written\n"
    )
    assert run("new-plugin", "ripple", "--outdir", str(tmp_path / "new" / "deep")).exit_code == 0
    folder = tmp_path / "new" / "deep" / "noisegan-ripple"
    assert folder.stat().st_mode == folder.parent.stat().st_mode


# --- a plugin from outside


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed by pip, from a copy, so that nothing is built in the checkout."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__", ".*"))
    command = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    done = subprocess.run([sys.executable, *command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_the_example_is_short() -> None:
    assert len((EXAMPLE / "noisegan_style_gate.py").read_text().splitlines()) < 60


def test_a_strategy_takes_twenty_lines() -> None:
    body = RIPPLE.read_text().split('"""', 2)[2]
    assert len([line for line in body.splitlines() if line]) <= 20


def test_a_strategy_in_a_file_conforms_and_trains(tmp_path: Path) -> None:
    assert run("check", "ripple", "--plugin", str(RIPPLE)).exit_code == 0
    smallest = "--cbase 64 --cmax 8 --z-dim 8 --w-dim 8 --map-depth 2 --batch 4 --kimg 0.008 --tick 0.004"
    words = f"train --data digits --cfg tiny --noise ripple {smallest} --outdir".split()
    trained = run(*words, str(tmp_path), "--plugin", str(RIPPLE))
    assert trained.exit_code == 0, trained.output
    assert list(tmp_path.glob("00000-digits-tiny-ripple/network-snapshot-*.safetensors"))


def test_an_installed_plugin_is_listed(installed: Path, tmp_path: Path) -> None:
    listed = python("-m", "noisegan", "strategies", "--json", cwd=tmp_path, path=installed)
    assert listed.returncode == 0, listed.stderr
    found = {item["name"]: item for item in json.loads(listed.stdout)}
    assert found["style_gate"]["plugin"] == {
        "plugin": "style_gate",
        "origin": "entry point",
        "version": "0.1.0",
        "location": "noisegan-style-gate",
    }
    assert "fuzzy" in found


def test_an_installed_plugin_conforms(installed: Path, tmp_path: Path) -> None:
    checked = python("-m", "noisegan", "check", "style_gate", cwd=tmp_path, path=installed)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "checks passed" in checked.stdout


def test_the_tests_of_the_example_pass() -> None:
    tests = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pyproject.toml", cwd=EXAMPLE)
    assert tests.returncode == 0, tests.stdout + tests.stderr
