"""`noisegan strategies`: what there is, where it comes from, and which parameters it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from noisegan.api import StrategySpec, Where
from noisegan.cli.options import plugin_option
from noisegan.manager import Plugins, Provenance


@click.command("strategies")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, as documented above.")
@plugin_option
def command(name: str | None, as_json: bool, plugin_files: tuple[Path, ...]) -> None:
    """List the noise strategies and their parameters; of one strategy when NAME is given.

    \b
    The JSON is stable, a list of objects:
      {name, summary, reference, points, identity_at_init,
       parameters: [{name, type, default, minimum, maximum, minimum_excluded,
                     maximum_excluded, choices, help}],
       plugin: {plugin, origin, version, location}}
    `points` are the injection points; minimum, maximum and choices are null where
    there are none. Plugins that were not loaded are named on standard error.
    """
    plugins = Plugins(plugin_files)
    chosen = sorted(plugins.strategies) if name is None else [plugins.spec(name).name]
    found = [describe(*plugins.strategies[key]) for key in chosen]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        for refusal in plugins.refused:
            click.echo(f"warning: {refusal}", err=True)
        return
    console = Console()
    for item in found:
        console.print(_panel(item))
    if plugins.refused:
        console.print("[bold]Not loaded[/bold]")
        for refusal in plugins.refused:
            console.print(f"  {escape(str(refusal))}", soft_wrap=True)


def describe(spec: StrategySpec[Any], source: Provenance) -> dict[str, Any]:
    """A strategy as plain data, the object of the JSON list."""
    return {
        "name": spec.name,
        "summary": spec.summary,
        "reference": spec.reference,
        "points": list(spec.points),
        "identity_at_init": spec.identity_at_init,
        "parameters": parameters(spec),
        "plugin": source.as_dict(),
    }


def parameters(spec: StrategySpec[Any]) -> list[dict[str, Any]]:
    """The parameters of a strategy, its own and those of `Where`, read from the JSON schemas of their models."""
    everywhere = [item for item in _fields(Where) if item["name"] in spec.where_parameters]
    return _fields(spec.params) + everywhere


def _fields(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    defaults = model().model_dump(mode="json")
    found = []
    for name, field in schema.get("properties", {}).items():
        kinds = _alternatives(field, definitions)
        lower, lower_excluded = _bound(kinds, "minimum", "exclusiveMinimum")
        upper, upper_excluded = _bound(kinds, "maximum", "exclusiveMaximum")
        found.append(
            {
                "name": name,
                "type": " or ".join(dict.fromkeys(_type(kind) for kind in kinds)),
                "default": defaults[name],
                "minimum": lower,
                "maximum": upper,
                "minimum_excluded": lower_excluded,
                "maximum_excluded": upper_excluded,
                "choices": _choices(kinds),
                "help": field.get("description", ""),
            }
        )
    return found


def _alternatives(field: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """The plain schemas behind anyOf (a field that may be null), allOf and references."""
    if "$ref" in field:
        return _alternatives(definitions[field["$ref"].rsplit("/", 1)[-1]], definitions)
    nested = field.get("anyOf") or field.get("oneOf") or field.get("allOf")
    if nested is None:
        return [field]
    return [kind for part in nested for kind in _alternatives(part, definitions)]


def _type(kind: dict[str, Any]) -> str:
    if "type" in kind:
        return str(kind["type"])
    values = [kind["const"]] if "const" in kind else kind.get("enum", [])
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return " or ".join(dict.fromkeys(names.get(type(value), "any") for value in values)) or "any"


def _bound(kinds: list[dict[str, Any]], included: str, excluded: str) -> tuple[float | None, bool]:
    """A limit and whether it is itself refused; None where there is none."""
    for kind in kinds:
        for key in (included, excluded):
            if key in kind:
                return kind[key], key == excluded
    return None, False


def _choices(kinds: list[dict[str, Any]]) -> list[Any] | None:
    values = [value for kind in kinds for value in ([kind["const"]] if "const" in kind else kind.get("enum", []))]
    if values and any(kind.get("type") == "null" for kind in kinds):
        values.append(None)
    return values or None


def _allowed(item: dict[str, Any]) -> str:
    """The range or choices of a parameter, in words."""
    if item["choices"] is not None:
        return ", ".join(_text(choice) for choice in item["choices"])
    parts = []
    if item["minimum"] is not None:
        parts.append(f"{'>' if item['minimum_excluded'] else '>='} {item['minimum']:g}")
    if item["maximum"] is not None:
        parts.append(f"{'<' if item['maximum_excluded'] else '<='} {item['maximum']:g}")
    return " and ".join(parts) or str(item["type"])


def _text(value: Any) -> str:
    """As it is written in an expression: true, none, 0.5, text."""
    return {True: "true", False: "false", None: "none"}[value] if isinstance(value, bool | None) else str(value)


def _panel(item: dict[str, Any]) -> RenderableType:
    plugin = item["plugin"]
    start = "changes nothing at the start" if item["identity_at_init"] else "active from the start"
    lines: list[RenderableType] = [
        escape(item["summary"]),
        f"[dim]reference  {escape(item['reference'])}[/dim]",
        f"[dim]injects at {', '.join(item['points'])}; {start}[/dim]",
        f"[dim]plugin     {escape(plugin['plugin'])} ({plugin['origin']}, {escape(plugin['version'])}, "
        f"{escape(plugin['location'])})[/dim]",
    ]
    if item["parameters"]:
        table = Table(box=None, pad_edge=False)
        for heading in ("parameter", "default", "allowed", "help"):
            table.add_column(heading)
        for parameter in item["parameters"]:
            row = (parameter["name"], _text(parameter["default"]), _allowed(parameter), parameter["help"])
            table.add_row(*(escape(cell) for cell in row))
        lines += ["", table]
    return Panel(Group(*lines), title=f"[bold]{item['name']}[/bold]", title_align="left")
