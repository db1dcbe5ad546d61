"""`noisegan manifolds`: the spaces that noise can be carried to, with their sizes and what is known of them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from noisegan.cli.options import load_plugins, plugin_option
from noisegan.errors import NoiseganError
from noisegan.manager import Provenance
from noisegan.plugins.geometry import Manifold

GEOMSTATS: dict[str, Any] = {
    "name": "geomstats:module.Class?size=value",
    "tier": "geomstats",
    "sizes": "what the class takes",
    "arguments": [],
    "radius": "as geomstats gives it",
    "at_zero": "the first derivative is exact, the second lacks the curvature's part",
    "frame": "as its points",
    "summary": "Any space of geomstats, through an adapter; needs the package geomstats.",
    "plugin": None,
}

"""Stands for all of them."""
COLUMNS = {
    "tier": "tier",
    "sizes": "sizes",
    "radius": "injectivity radius",
    "at_zero": "at sigma = 0",
    "frame": "frame",
}
HOW_TO_WRITE = """
Write sphere(dim=63), a power sphere(dim=3)^16, a product product(sphere(dim=3), euclidean(dim=2)),
a class of your own package.module:Class(size=value), a space of geomstats
geomstats:hypersphere.Hypersphere?dim=63."""


@click.command("manifolds")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, as documented above.")
@plugin_option
def command(as_json: bool, plugin_files: tuple[Path, ...]) -> None:
    """List the manifolds that `geodesic` and plugins can use by name.

    \b
    The JSON is stable, a list of objects:
      {name, tier, sizes, arguments, radius, at_zero, frame, summary,
       plugin: {plugin, origin, version, location}}
    `tier` is native, plugin or geomstats. `sizes` is the rule of its dimensions, in
    words, and `arguments` are the names of what it takes. `radius` is its injectivity
    radius, `at_zero` how smooth Exp_x(sigma v) is at sigma = 0, `frame` where its
    orthonormal frame is singular. The last object stands for every space of
    geomstats; its plugin is null.
    """
    plugins = load_plugins(plugin_files)
    found = [describe(name, *entry) for name, entry in plugins.registered["manifold"].items()] + [GEOMSTATS]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("name", *COLUMNS.values()):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("name", "tier"))
    for item in found:
        name = item["name"].replace("module.Class?size=value", "...")
        table.add_row(*(escape(text) for text in (name, *(item[key] for key in COLUMNS))))
    console = Console()
    console.print(table)
    console.print(HOW_TO_WRITE, soft_wrap=True, highlight=False)


def describe(name: str, M: Any, source: Provenance) -> dict[str, Any]:
    """A manifold class as plain data, the object of the JSON list."""
    if not issubclass(M, Manifold):
        raise NoiseganError(
            f"plugin {source.plugin!r} registers the manifold {name!r}, whose class {M.__name__} is no subclass of "
            "noisegan.plugins.geometry.Manifold"
        )
    return {
        "name": name,
        "tier": M.tier,
        "sizes": M.sizes,
        "arguments": list(inspect.signature(M).parameters),
        "radius": M.radius,
        "at_zero": M.at_zero,
        "frame": M.frame,
        "summary": inspect.cleandoc(M.__doc__ or "").partition("\n")[0],
        "plugin": source.as_dict(),
    }
