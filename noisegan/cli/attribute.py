"""`noisegan attribute`: which images a network has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from noisegan.cli.options import held_out_options, load_plugins, open_outdir, projector_options


@click.command("attribute")
@click.argument("target", required=False, metavar="[IMAGES]", type=click.Path(path_type=Path))
@click.option("--network", required=True, type=click.Path(path_type=Path), help="run folder or snapshot")
@click.option(
    "--outdir", required=True, type=click.Path(path_type=Path), help="gets attribution.json and the inversions"
)
@click.option("--images", default=100, show_default=True, help="known real images, and own images of the network")
@click.option("--false-positives", default=0.05, show_default=True, help="share of real images called generated")
@click.option("--space", default="w", show_default=True, help="w, w+, z or pti")
@click.option("--noise", default="optimised", show_default=True, help="off, fixed or optimised")
@held_out_options
@projector_options
def command(target: Path | None, network: Path, outdir: Path, plugin_files: tuple[Path, ...], **options: Any) -> None:
    """Decide which of IMAGES (a picture or a folder) a network has made, from how well it can show them again.

    \b
    noisegan attribute --network runs/00000-fashion-mnist-tiny-fuzzy --data fashion-mnist --outdir out photos

    Inverts known images first: held-out real ones, and the network's own. Their ROC curve and the threshold that
    follows from them are in attribution.json and attribution.png. Without IMAGES that is all. Stopped at any moment,
    the same command goes on.
    """
    from noisegan.inversion.attributing import attribute

    plugins = load_plugins(plugin_files)
    open_outdir(outdir)
    for line in attribute(network, target, outdir, plugins=plugins, **options):
        click.echo(line)
