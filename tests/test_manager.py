"""Plugins are found, bad ones are refused with a reason while the others load, and each one's origin is known."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from toys import ToyFeature, toy

from noisegan import __version__
from noisegan.api import Field, Params, StrategySpec, hookimpl
from noisegan.errors import NoiseganError
from noisegan.manager import BUILT_IN, Plugins, bind

SOURCE = """
from noisegan.api import FeatureInjector, Params, StrategySpec, hookimpl

class NoParams(Params):
    pass

class Same(FeatureInjector):
    def draw(self, source):
        return source.normal(0)

    def forward(self, x, noise, w):
        return x

@hookimpl
def register_strategies(register):
    register(StrategySpec(name="{name}", params=NoParams, summary="s", reference="r", identity_at_init=True,
                          feature=lambda site, p: Same()))
"""


@dataclass
class FakeEntry:
    """An entry point without a package: `load` does what the test needs."""

    name: str
    load: Callable[[], object]
    value: str = "somewhere"
    dist: Any = None


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plugins]:
    """Plugins of a Python in which exactly these entry points are installed."""

    def load(*entries: FakeEntry, **options: Any) -> Plugins:
        def entry_points(*, group: str) -> tuple[FakeEntry, ...]:
            assert group == "noisegan"
            return entries

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
        return Plugins(**options)

    return load


def module(register: Callable[..., None] | None = None, **functions: Callable[..., Any]) -> ModuleType:
    made = ModuleType("made_up")
    if register is not None:
        functions["register_strategies"] = register
    for name, function in functions.items():
        setattr(made, name, hookimpl(function))
    return made


def entry(name: str, plugin: object) -> FakeEntry:
    return FakeEntry(name, lambda: plugin)


def registering(*specs: Any) -> ModuleType:
    def register_strategies(register: Callable[[Any], None]) -> None:
        for spec in specs:
            register(spec)

    return module(register_strategies)


def spec(name: str, **changes: Any) -> StrategySpec[Any]:
    return toy(name, feature=lambda site, p: ToyFeature(site), **changes)


def only_refusal(plugins: Plugins) -> str:
    (refusal,) = plugins.refused
    return str(refusal)


def test_built_in_strategies_are_plugins_like_others() -> None:
    plugins = Plugins(entry_points=False)
    assert not plugins.refused
    assert list(plugins.provenance) == list(BUILT_IN)
    origin = plugins.strategies["fuzzy"][1]
    assert origin.as_dict() == {
        "plugin": "noisegan.plugins.fuzzy",
        "origin": "built-in",
        "version": __version__,
        "location": "noisegan",
    }


def test_an_entry_point_is_found_with_its_package_and_version(install: Callable[..., Plugins]) -> None:
    package = SimpleNamespace(name="noisegan-ripple", version="1.2")
    plugins = install(FakeEntry("ripple", lambda: registering(spec("ripple")), dist=package))
    assert not plugins.refused
    (source,) = plugins.source_of(plugins.parse("ripple(strength=1)"))
    assert source == {
        "plugin": "ripple",
        "origin": "entry point",
        "version": "1.2",
        "location": "noisegan-ripple",
        "strategy": "ripple",
    }


def fail(error: BaseException) -> object:
    raise error


@pytest.mark.parametrize(
    "error", [ImportError("no module named 'cupy'"), SyntaxError("bad"), SystemExit("stop"), ZeroDivisionError("x")]
)
def test_a_broken_entry_point_stops_no_other(error: BaseException, install: Callable[..., Plugins]) -> None:
    plugins = install(FakeEntry("broken", lambda: fail(error)), entry("good", registering(spec("good"))))
    assert only_refusal(plugins) == (
        f"plugin 'broken' was not loaded: importing it failed with {type(error).__name__}: {error}"
    )
    assert {"good", "fuzzy"} <= set(plugins.strategies)
    with pytest.raises(NoiseganError, match=r"unknown noise strategy 'broken'.*plugin 'broken' was not loaded"):
        plugins.parse("broken")


class Needy(Params):
    size: float = Field(description="has no default")


def _misspelt(register: Any) -> None: ...


def _with_default(register: Any = None) -> None: ...


def _with_unknown_argument(register: Any, colour: Any) -> None: ...


def _with_misspelt_argument(run: Any, stpe: Any) -> None: ...


class _Methods:
    @hookimpl
    def before_train(self, run: Any) -> None: ...

    @hookimpl
    def after_train(self, run: Any, sumary: Any) -> None: ...


def _raises_lines(register: Any) -> None:
    raise LookupError("no table for:\n  a\n  b\n")


def _raises(register: Any) -> None:
    raise LookupError("no table")


REFUSED = {
    "misspelt hook": (
        module(register_strategy=_misspelt),
        "it implements an unknown hook 'register_strategy'; did you mean 'register_strategies'",
    ),
    "default argument": (
        module(_with_default),
        "its register_strategies gives register a default value: pluggy versions differ in what they pass then; "
        "remove the default",
    ),
    "unknown argument": (
        module(_with_unknown_argument),
        "its register_strategies has the argument 'colour', which that hook does not pass; it passes register",
    ),
    "misspelt argument": (
        module(after_step=_with_misspelt_argument),
        "its after_step has the argument 'stpe', which that hook does not pass; it passes run, step; "
        "did you mean 'step'?",
    ),
    "method with unknown argument": (
        _Methods(),
        "its after_train has the argument 'sumary', which that hook does not pass; it passes run, summary; "
        "did you mean 'summary'?",
    ),
    "error of many lines": (
        module(_raises_lines),
        "registering failed with LookupError: no table for: a b",
    ),
    "hook raises": (module(_raises), "registering failed with LookupError: no table"),
    "no hook": (ModuleType("empty"), "it has no function marked @hookimpl, so it registers nothing"),
    "wrong object": (registering("fuzzy"), "it registered 'fuzzy' where a StrategySpec was expected"),
    "old contract": (
        registering(StrategySpec(**{**vars(spec("old")), "api_version": 0})),
        "strategy 'old' was written for version 0 of the contract and this noisegan has version 1; "
        "install a matching version of the plugin",
    ),
    "name twice": (registering(spec("two"), spec("two")), "it registered a strategy name twice: two, two"),
    "no default": (registering(spec("needy", params=Needy)), "noise strategy 'needy': size="),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_bad_plugin_is_refused_with_its_reason(fault: str, install: Callable[..., Plugins]) -> None:
    plugin, reason = REFUSED[fault]
    plugins = install(entry("bad", plugin), entry("good", registering(spec("good"))))
    assert only_refusal(plugins).startswith(f"plugin 'bad' was not loaded: {reason}")
    assert "\n" not in only_refusal(plugins)
    assert set(plugins.strategies) == {*Plugins(entry_points=False).strategies, "good"}
    assert "bad" not in plugins.provenance
    plugins.hook.register_strategies(register=lambda spec: None)  # nothing of the bad one is left behind


def test_a_refused_plugin_registers_nothing_of_its_other_strategies(install: Callable[..., Plugins]) -> None:
    plugins = install(entry("half", registering(spec("fine"), "wrong")))
    assert "fine" not in plugins.strategies


def test_two_plugins_of_one_name(install: Callable[..., Plugins]) -> None:
    plugins = install(entry("twin", registering(spec("first"))), entry("twin", registering(spec("second"))))
    assert only_refusal(plugins).endswith("a plugin of that name is loaded from somewhere")
    assert "first" in plugins.strategies
    assert "second" not in plugins.strategies


def test_a_contested_strategy_is_an_error_on_use_and_names_both(install: Callable[..., Plugins]) -> None:
    plugins = install(entry("left", registering(spec("ripple"))), entry("right", registering(spec("ripple"))))
    assert not plugins.refused
    assert plugins.parse("fuzzy")
    with pytest.raises(NoiseganError) as caught:
        plugins.parse("none + ripple")
    assert str(caught.value) == (
        "two plugins register a noise strategy 'ripple': 'left' (somewhere) and 'right' (somewhere); "
        "rename one, or disable one with NOISEGAN_DISABLED_PLUGINS"
    )


def test_disabling_settles_a_contest(install: Callable[..., Plugins], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEGAN_DISABLED_PLUGINS", "left, unheard-of")
    plugins = install(entry("left", registering(spec("ripple"))), entry("right", registering(spec("ripple"))))
    assert only_refusal(plugins) == "plugin 'left' was not loaded: disabled by NOISEGAN_DISABLED_PLUGINS"
    assert plugins.strategies["ripple"][1].plugin == "right"
    monkeypatch.delenv("NOISEGAN_DISABLED_PLUGINS")
    assert "fuzzy" not in install(disabled=["noisegan.plugins.fuzzy"]).strategies


def test_a_disabled_plugin_is_not_even_imported(install: Callable[..., Plugins]) -> None:
    plugins = install(FakeEntry("heavy", lambda: fail(AssertionError("imported"))), disabled=["heavy"])
    assert "disabled by" in only_refusal(plugins)


def test_metrics_and_manifolds_are_kept_with_their_origin(install: Callable[..., Plugins]) -> None:
    def register_metrics(register: Callable[[str, Any], None]) -> None:
        register("fid5", max)

    plugins = install(
        entry("one", module(register_metrics=register_metrics)),
        entry("two", module(register_metrics=register_metrics)),
    )
    metric, source = plugins.registered["metric"]["fid5"]
    assert metric is max
    assert source.plugin == "one"
    assert only_refusal(plugins).endswith("metric 'fid5' is registered by 'one' already")


def test_a_hook_may_name_any_subset_of_its_arguments(install: Callable[..., Plugins]) -> None:
    class Watch:
        @hookimpl
        def before_train(self) -> None: ...

        @hookimpl
        def after_train(self, summary: Any) -> None: ...

    assert not install(entry("watch", Watch())).refused


def test_lifecycle_hooks_reach_plugins(install: Callable[..., Plugins]) -> None:
    seen = []

    def after_step(step: Any) -> None:
        seen.append(step)

    install(entry("watch", module(after_step=after_step))).hook.after_step(run=None, step=3)
    assert seen == [3]


def test_a_file_is_a_plugin_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "my-noise.py"
    path.write_text(SOURCE.format(name="mine"))
    plugins = Plugins([path], entry_points=False)
    source = plugins.strategies["mine"][1]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert (source.plugin, source.origin, source.version) == ("my-noise", "file", f"sha256:{digest}")
    assert source.location == str(path.resolve())
    path.write_text(SOURCE.format(name="other"))  # an edited file is another plugin, not a stale import
    assert "other" in Plugins([path], entry_points=False).strategies


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("gone.py", None, "there is no such file"),
        ("bad.py", "def f(:\n", "importing it failed with SyntaxError: "),
        ("needs.py", "import not_installed_anywhere\n", "importing it failed with ModuleNotFoundError: "),
        ("empty.py", "x = 1\n", "it has no function marked @hookimpl, so it registers nothing"),
        ("notes.txt", "hello\n", "it is not a Python file"),
        ("clash.py", SOURCE.format(name="Bad Name"), "registering failed with ValueError: strategy name 'Bad Name'"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_an_error(tmp_path: Path, name: str, text: str | None, reason: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    before = set(sys.modules)
    with pytest.raises(NoiseganError) as caught:
        Plugins([path], entry_points=False)
    assert str(caught.value).startswith(f"--plugin {path}: {reason}")
    if name == "bad.py":
        assert not {m for m in set(sys.modules) - before if m.startswith("noisegan_plugin_")}


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("fuzy", "unknown noise strategy 'fuzy'; did you mean 'fuzzy'?"),
        ("zzz", "unknown noise strategy 'zzz'; known: additive, "),
        ("fuzzy(alfa=1)", "noise strategy 'fuzzy': no parameter 'alfa'; did you mean 'alpha'?"),
        ("none(alpha=1)", "noise strategy 'none': no parameter 'alpha'; known: layers, placement"),
        ("fuzzy(alpha=2)", "noise strategy 'fuzzy': alpha=2: Input should be less than or equal to 1 (share of "),
        ("fuzzy(form=cubic)", "noise strategy 'fuzzy': form='cubic': Input should be 'scaled' or 'additive' (out ="),
        ("additive(strength=much, per_channel=7)", "noise strategy 'additive': per_channel=7: "),
    ],
)
def test_expressions_that_do_not_bind(expression: str, message: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        Plugins(entry_points=False).parse(expression)
    assert str(caught.value).startswith(message)


def test_binding_fills_in_defaults() -> None:
    fuzzy = Plugins(entry_points=False).spec("fuzzy")
    assert bind(fuzzy, {"alpha": 0.25}).params.model_dump() == {"form": "scaled", "alpha": 0.25, "gain": 1.0}


def test_loading_the_plugins_does_not_load_a_compiler_or_geomstats() -> None:
    """Every command loads them; these two would cost it seconds."""
    code = (
        "import sys; from noisegan.manager import Plugins; Plugins(entry_points=False); "
        "print([name for name in ('torch._dynamo', 'geomstats') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
