"""`noisegan report`: write a comparison's report anew."""

from __future__ import annotations

from pathlib import Path

import click

from noisegan.cli.options import load_plugins, plugin_option


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path))
@plugin_option
def command(folder: Path, plugin_files: tuple[Path, ...]) -> None:
    """Write the report of a comparison anew from its results; nothing is trained.

    \b
    noisegan report out
    """
    from noisegan.compare.runner import report

    click.echo(str(report(folder, plugins=load_plugins(plugin_files))))
