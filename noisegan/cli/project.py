"""`noisegan project`: images to latents and noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from noisegan.cli.options import boolean_option, load_plugins, open_outdir, projector_options


@click.command("project")
@click.option("--network", required=True, type=click.Path(path_type=Path), help="run folder or snapshot")
@click.option("--target", required=True, type=click.Path(path_type=Path), help="an image, or a folder of images")
@click.option("--outdir", required=True, type=click.Path(path_type=Path), help="gets a folder per image")
@click.option("--space", default="w", show_default=True, help="w, w+, z, or pti: tune the generator after w")
@click.option("--noise", default="optimised", show_default=True, help="off, fixed or optimised")
@click.option("--perturbation", type=float, help="of w, in sigma_w  [default: 0.05, 0 with an encoder]")
@click.option("--encoder", type=click.Path(path_type=Path), help="start from what train-encoder made")
@boolean_option("--save-video", default=False, help="write proj.mp4 (needs imageio[ffmpeg])  [default: no]")
@projector_options
def command(
    network: Path, target: Path, outdir: Path, device: str, plugin_files: tuple[Path, ...], **options: Any
) -> None:
    """Invert images: find the latent and the noise that make a trained generator show them.

    \b
    noisegan project --network runs/00000-digits-tiny-fuzzy --target photos --space w --noise optimised --outdir out

    Writes a folder per image: target.png, proj.png, progress.png, projected_w.npz (w, noise, losses), settings.json.
    An image of another size is cropped to its centre and resized by Lanczos. What is finished is kept when you stop,
    and a second call goes on from there. `generate --projected` renders the results again.
    """
    from noisegan.inversion.folders import project

    open_outdir(outdir)
    for line in project(network, target, outdir, device=device, plugins=load_plugins(plugin_files), **options):
        click.echo(line)
