"""`noisegan attribute`: which images a network has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from noisegan.cli.options import load_plugins, open_outdir, plugin_option


@click.command("attribute")
@click.argument("target", required=False, metavar="[IMAGES]", type=click.Path(path_type=Path))
@click.option("--network", required=True, type=click.Path(path_type=Path), help="run folder or snapshot")
@click.option(
    "--outdir", required=True, type=click.Path(path_type=Path), help="gets attribution.json and the inversions"
)
@click.option("--data", help="known real images it was not trained on; fashion-mnist: its test images")
@click.option("--resize", help="how real images are resized  [default: as for training]")
@click.option("--crop", help="how real images are cropped  [default: as for training]")
@click.option("--images", default=100, show_default=True, help="known real images, and own images of the network")
@click.option("--allow-trained", is_flag=True, help="draw known real images from training images too")
@click.option("--draw-seed", default=0, show_default=True, type=click.IntRange(0), help="of the draw of real images")
@click.option("--false-positives", default=0.05, show_default=True, help="share of real images called generated")
@click.option("--space", default="w", show_default=True, help="w, w+, z or pti")
@click.option("--noise", default="optimised", show_default=True, help="off, fixed or optimised")
@click.option("--steps", "--num-steps", default=1000, show_default=True, help="steps of each inversion")
@click.option("--loss", default="st-lpips-alex", show_default=True, help="as of `noisegan project`")
@click.option("--lr", default=0.1, show_default=True, help="largest learning rate")
@click.option("--noise-weight", default=1e5, show_default=True, help="weight of the noise's autocorrelation")
@click.option("--class", "class_index", type=int, help="class of a conditional network; needed for space z")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1), help="images at a time")
@click.option("--precision", default="fp32", show_default=True, help="fp32; bf16 in large layers")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps or auto")
@plugin_option
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
