"""`noisegan train-encoder`: a start for inversions."""

from __future__ import annotations

from pathlib import Path

import click

from noisegan.cli.options import load_plugins, open_outdir, plugin_option


@click.command("train-encoder")
@click.option("--network", required=True, type=click.Path(path_type=Path), help="run folder or snapshot")
@click.option("--outdir", required=True, type=click.Path(path_type=Path), help="gets encoder.safetensors")
@click.option("--kimg", default=20.0, show_default=True, help="thousands of generated images to learn from")
@click.option("--batch", default=32, show_default=True, type=click.IntRange(1), help="images per step")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="of everything random")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps or auto")
@plugin_option
def command(
    network: Path, outdir: Path, kimg: float, batch: int, seed: int, device: str, plugin_files: tuple[Path, ...]
) -> None:
    """Train an encoder from images to w on a generator's own samples.

    \b
    noisegan train-encoder --network runs/00000-digits-tiny-fuzzy --kimg 20 --outdir encoder
    noisegan project --network runs/00000-digits-tiny-fuzzy --encoder encoder --target photos --outdir out
    """
    from noisegan.core.reporting import counting
    from noisegan.inversion.encoder import train_encoder_for

    open_outdir(outdir)
    with counting("images") as progress:
        path, error = train_encoder_for(
            network,
            outdir,
            kimg=kimg,
            batch=batch,
            seed=seed,
            device=device,
            plugins=load_plugins(plugin_files),
            progress=progress,
        )
    click.echo(f"{path}: squared error {error:.3f} of the variance of w")
