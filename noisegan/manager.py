"""Finds plugins, refuses bad ones with a reason, records where each came from, and resolves strategy expressions.

Plugins come from three places, all loaded the same way and one by one, so that a broken one never stops the others:
the built-in modules, entry points of the group `noisegan`, and files given with `--plugin FILE.py`.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pluggy
from pydantic import ValidationError

from noisegan import __version__, hookspecs
from noisegan.api import API_VERSION, Strategy, StrategySpec, Where
from noisegan.errors import NoiseganError, near_match
from noisegan.expression import parse_expression

BUILT_IN = (
    "noisegan.plugins.none",
    "noisegan.plugins.additive",
    "noisegan.plugins.fuzzy",
    "noisegan.plugins.filtering",
    "noisegan.plugins.geodesic",
    "noisegan.plugins.normal_coordinates",
    "noisegan.plugins.instance",
    "noisegan.plugins.roth",
    "noisegan.plugins.geometry.natives",
    "noisegan.plugins.multiplicative",
    "noisegan.plugins.dropout",
    "noisegan.plugins.coloured",
    "noisegan.plugins.anisotropic",
    "noisegan.plugins.warp",
    "noisegan.plugins.learned_metric",
    "noisegan.plugins.latent_chunks",
    "noisegan.metrics.frechet",
    "noisegan.metrics.kernel_distance",
    "noisegan.metrics.neighbours",
    "noisegan.metrics.extractors.efficientnet_lite0",
    "noisegan.metrics.extractors.st_lpips",
    "noisegan.metrics.extractors.inception",
)
GROUP = "noisegan"
DISABLED_VARIABLE = "NOISEGAN_DISABLED_PLUGINS"
_REGISTER_HOOKS = {
    "register_metrics": "metric",
    "register_manifolds": "manifold",
    "register_feature_extractors": "feature extractor",
}


@dataclass(frozen=True)
class Provenance:
    """Where a plugin came from: `built-in`, `entry point` or `file`; its version; a package name or path."""

    plugin: str
    origin: str
    version: str
    location: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Refusal:
    """A plugin that was not loaded, and why."""

    plugin: str
    reason: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} was not loaded: {self.reason}"


class Plugins:
    """All plugins of this process.

    Args:
        files: Python files to load as plugins beside the installed ones.
        entry_points: look for installed plugins.
        disabled: plugin names to pass over; default: the environment's `NOISEGAN_DISABLED_PLUGINS`, comma-separated.

    Raises:
        NoiseganError: when one of `files` cannot be loaded; other broken plugins are listed in `refused`.
    """

    def __init__(
        self,
        files: Iterable[str | Path] = (),
        *,
        entry_points: bool = True,
        disabled: Iterable[str] | None = None,
    ) -> None:
        if disabled is None:
            disabled = os.environ.get(DISABLED_VARIABLE, "").split(",")
        self._disabled = {name.strip() for name in disabled if name.strip()}
        self._pluggy = pluggy.PluginManager("noisegan")
        self._pluggy.add_hookspecs(hookspecs)
        self._contested: dict[str, str] = {}
        self.provenance: dict[str, Provenance] = {}
        self.refused: list[Refusal] = []
        self.strategies: dict[str, tuple[StrategySpec[Any], Provenance]] = {}
        self.registered: dict[str, dict[str, tuple[Any, Provenance]]] = {k: {} for k in _REGISTER_HOOKS.values()}
        for name in BUILT_IN:
            source = Provenance(name, "built-in", __version__, "noisegan")
            self._load(source, functools.partial(importlib.import_module, name))
        if entry_points:
            for entry in importlib.metadata.entry_points(group=GROUP):
                package = entry.dist.name if entry.dist else entry.value
                version = entry.dist.version if entry.dist else "unknown"
                self._load(Provenance(entry.name, "entry point", version, package), entry.load)
        for file in files:
            self._load_file(Path(file))
        self.hook.manifolds_registered(
            manifolds={name: item for name, (item, _) in self.registered["manifold"].items()}
        )

    @property
    def hook(self) -> Any:
        """The lifecycle hooks, to be called with keyword arguments."""
        return self._pluggy.hook

    def observe(self, observer: object) -> None:
        """Let an object with methods marked `@hookimpl` see the lifecycle of this process's runs."""
        self._check_arguments(observer)
        self._pluggy.register(observer)
        self._check_hooks(observer)

    def spec(self, name: str) -> StrategySpec[Any]:
        """The strategy called `name`.

        Raises:
            NoiseganError: when there is none (near matches offered), or two plugins claim the name.
        """
        if name in self._contested:
            raise NoiseganError(self._contested[name])
        if name not in self.strategies:
            refused = "".join(f" ({r})" for r in self.refused)
            raise NoiseganError(f"unknown noise strategy {name!r}{near_match(name, self.strategies)}{refused}")
        return self.strategies[name][0]

    def parse(self, expression: str) -> tuple[Strategy, ...]:
        """The strategies of an expression such as `additive + fuzzy(alpha=0.3)`, in order of application.

        Raises:
            NoiseganError: for a malformed expression, an unknown strategy or a bad parameter.
        """
        return tuple(bind(self.spec(name), arguments) for name, arguments in parse_expression(expression))

    def source_of(self, strategies: Sequence[Strategy]) -> list[dict[str, str]]:
        """Provenance of each strategy's plugin, as plain data for checkpoints and reports."""
        return [self.strategies[s.name][1].as_dict() | {"strategy": s.name} for s in strategies]

    def _load_file(self, path: Path) -> None:
        if not path.is_file():
            raise NoiseganError(f"--plugin {path}: there is no such file")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        source = Provenance(path.stem, "file", f"sha256:{digest}", str(path.resolve()))
        refusals = len(self.refused)
        self._load(source, lambda: _import_file(path, digest))
        if len(self.refused) > refusals:
            raise NoiseganError(f"--plugin {path}: {self.refused[-1].reason}")

    def _load(self, source: Provenance, load: Callable[[], object]) -> None:
        """Load, check and register one plugin, or add it to `refused`."""
        if self._disabled & {source.plugin, source.location}:
            self.refused.append(Refusal(source.plugin, f"disabled by {DISABLED_VARIABLE}"))
            return
        try:
            plugin = load()
        except NoiseganError as error:
            self.refused.append(Refusal(source.plugin, str(error)))
            return
        except (Exception, SystemExit) as error:
            self.refused.append(Refusal(source.plugin, f"importing it failed with {_describe(error)}"))
            return
        if self._pluggy.get_plugin(source.plugin) is not None:
            known = self.provenance[source.plugin]
            self.refused.append(Refusal(source.plugin, f"a plugin of that name is loaded from {known.location}"))
            return
        try:
            self._check_arguments(plugin)
            self._pluggy.register(plugin, source.plugin)
            self._check_hooks(plugin)
            specs, others = self._collect(plugin, source)
        except Exception as error:
            if self._pluggy.get_plugin(source.plugin) is not None:
                self._pluggy.unregister(name=source.plugin)
            reason = str(error) if isinstance(error, NoiseganError) else f"registering failed with {_describe(error)}"
            self.refused.append(Refusal(source.plugin, reason))
            return
        self.provenance[source.plugin] = source
        for spec in specs:
            self._add_strategy(spec, source)
        for kind, entries in others.items():
            self.registered[kind].update({name: (item, source) for name, item in entries.items()})

    def _check_arguments(self, plugin: object) -> None:
        """What pluggy checks too when it registers, but says in three lines."""
        for hook in dir(plugin):
            options = self._pluggy.parse_hookimpl_opts(plugin, hook)
            specified = getattr(hookspecs, hook, None)
            if options is None or not hasattr(specified, "noisegan_spec"):
                continue
            allowed = list(inspect.signature(cast(Callable[..., Any], specified)).parameters)
            implementation = pluggy.HookImpl(plugin, "", getattr(plugin, hook), options)
            for argument in implementation.argnames:
                if argument not in allowed:
                    close = difflib.get_close_matches(argument, allowed, n=1)
                    hint = f"; did you mean {close[0]!r}?" if close else ""
                    raise NoiseganError(
                        f"its {hook} has the argument {argument!r}, which that hook does not pass; "
                        f"it passes {', '.join(allowed)}{hint}"
                    )

    def _check_hooks(self, plugin: object) -> None:
        callers = self._pluggy.get_hookcallers(plugin)
        if not callers:
            raise NoiseganError("it has no function marked @hookimpl, so it registers nothing")
        for caller in callers:
            if not caller.has_spec():
                known = [name for name, value in vars(hookspecs).items() if hasattr(value, "noisegan_spec")]
                raise NoiseganError(f"it implements an unknown hook {caller.name!r}{near_match(caller.name, known)}")
            implementation = next(i for i in caller.get_hookimpls() if i.plugin is plugin)
            if implementation.kwargnames:
                raise NoiseganError(
                    f"its {caller.name} gives {', '.join(implementation.kwargnames)} a default value: pluggy versions "
                    "differ in what they pass then; remove the default"
                )

    def _collect(self, plugin: object, source: Provenance) -> tuple[list[StrategySpec[Any]], dict[str, dict[str, Any]]]:
        """Call the plugin's registering hooks; nothing is kept unless all of it is valid."""
        others = [p for p in self._pluggy.get_plugins() if p is not plugin]
        specs: list[StrategySpec[Any]] = []
        self._pluggy.subset_hook_caller("register_strategies", others)(register=specs.append)
        for spec in specs:
            if not isinstance(spec, StrategySpec):
                raise NoiseganError(f"it registered {spec!r} where a StrategySpec was expected")
            if spec.api_version != API_VERSION:
                raise NoiseganError(
                    f"strategy {spec.name!r} was written for version {spec.api_version} of the contract and this "
                    f"noisegan has version {API_VERSION}; install a matching version of the plugin"
                )
            bind(spec, {})
        names = [spec.name for spec in specs]
        if len(set(names)) < len(names):
            raise NoiseganError(f"it registered a strategy name twice: {', '.join(sorted(names))}")
        collected: dict[str, dict[str, Any]] = {}
        for hook, kind in _REGISTER_HOOKS.items():
            entries: dict[str, Any] = collected.setdefault(kind, {})
            self._pluggy.subset_hook_caller(hook, others)(register=entries.__setitem__)
            for name, item in entries.items():
                if kind == "manifold" and not isinstance(item, type):
                    raise NoiseganError(f"it registered {item!r} as the manifold {name!r}; give its class")
                if name in self.registered[kind]:
                    raise NoiseganError(
                        f"{kind} {name!r} is registered by {self.registered[kind][name][1].plugin!r} already"
                    )
        return specs, collected

    def _add_strategy(self, spec: StrategySpec[Any], source: Provenance) -> None:
        if spec.name in self.strategies:
            first = self.strategies[spec.name][1]
            self._contested[spec.name] = (
                f"two plugins register a noise strategy {spec.name!r}: {first.plugin!r} ({first.location}) and "
                f"{source.plugin!r} ({source.location}); rename one, or disable one with {DISABLED_VARIABLE}"
            )
            return
        self.strategies[spec.name] = (spec, source)


def bind(spec: StrategySpec[Any], arguments: Mapping[str, Any]) -> Strategy:
    """Fill in a strategy's parameters, and where in the generator it stands (`noisegan.placement`).

    Raises:
        NoiseganError: for an unknown parameter, or a value that the schema refuses.
    """
    where = {key: arguments[key] for key in spec.where_parameters if key in arguments}
    own = {key: value for key, value in arguments.items() if key not in where}
    try:
        return Strategy(spec, spec.params(**own), Where(**where))
    except ValidationError as error:
        fields = spec.params.model_fields | {key: Where.model_fields[key] for key in spec.where_parameters}
        problems = []
        for item in error.errors():
            key = ".".join(map(str, item["loc"]))
            if item["type"] == "extra_forbidden":
                problems.append(f"no parameter {key!r}{near_match(key, fields) or '; it takes none'}")
            else:
                field = fields.get(str(item["loc"][0])) if item["loc"] else None
                help_ = f" ({field.description})" if field and field.description else ""
                given = f"{key}={item['input']!r}: " if key else ""  # no key: parameters that do not go together
                problems.append(f"{given}{item['msg'].removeprefix('Value error, ')}{help_}")
        raise NoiseganError(f"noise strategy {spec.name!r}: {'; '.join(problems)}") from None


def _import_file(path: Path, digest: str) -> ModuleType:
    """Import a file under a name of its own, so that inspect and pickle find its classes."""
    name = f"noisegan_plugin_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise NoiseganError("it is not a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _describe(error: BaseException) -> str:
    """Type and message of an error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
