"""`noisegan generate`: images by seed, one file each and a grid."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import torch

from noisegan.cli.options import load_plugins, network_options, open_outdir, parse_seeds, resolve_noise_seed
from noisegan.core.images import GRID_PIXELS, make_grid, save_image, to_bytes
from noisegan.core.sampling import render, styles_of_seeds
from noisegan.files import write_json


@click.command("generate")
@network_options
@click.option("--seeds", required=True, help="such as 0-35,40")
def command(
    network: Path,
    seeds: str,
    trunc: float,
    class_index: int | None,
    noise_mode: str,
    noise_seed: int | None,
    outdir: Path,
    device: str,
    plugin_files: tuple[Path, ...],
) -> None:
    """Make images with a trained generator.

    \b
    noisegan generate --network runs/00000-digits-tiny-fuzzy --seeds 0-35,40 --trunc 0.7 --outdir out

    Writes seed0000.png and so on, grid.png (of the first ones, where they are many), and generate.json with the
    settings. A seed is the latent that numpy.random.RandomState(seed).randn(1, z_dim) gives, as in StyleGAN.
    """
    from noisegan import facade

    numbers = parse_seeds(seeds)
    snapshot = facade.load(network, plugins=load_plugins(plugin_files), device=device)
    G = snapshot.G_ema
    noise_seed = resolve_noise_seed(noise_mode, noise_seed)
    ws = styles_of_seeds(G, numbers, truncation=trunc, class_index=class_index)
    open_outdir(outdir)
    columns = min(math.ceil(math.sqrt(len(numbers))), max(1, GRID_PIXELS // G.resolution))
    shown: list[torch.Tensor] = []
    done = 0
    for batch in render(G, ws, numbers, mode=noise_mode, noise_seed=noise_seed):
        for image in to_bytes(batch).cpu():
            save_image(image, outdir / f"seed{numbers[done]:04d}.png")
            done += 1
            if len(shown) < columns**2:
                shown.append(image)
    save_image(make_grid(torch.stack(shown), columns), outdir / "grid.png")
    settings: dict[str, Any] = {
        "network": str(snapshot.path),
        "seeds": numbers,
        "trunc": trunc,
        "class": class_index,
        "noise_mode": noise_mode,
        "noise_seed": noise_seed,
    }
    write_json(outdir / "generate.json", settings)
    click.echo(f"{done} images in {outdir} (noise {noise_mode}, noise seed {noise_seed}, trunc {trunc:g})")
