"""`noisegan generate`: images by seed, one file each and a grid."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from noisegan.cli.options import load_plugins, network_options, open_outdir, parse_seeds, resolve_noise_seed
from noisegan.core.images import GRID_PIXELS, make_grid, save_image, to_bytes
from noisegan.core.sampling import render, styles_of_seeds
from noisegan.errors import NoiseganError
from noisegan.files import write_json
from noisegan.manager import Plugins


@click.command("generate")
@network_options(network_required=False)
@click.option("--seeds", help="such as 0-35,40")
@click.option("--projected", type=click.Path(path_type=Path), help="instead: render what `project` wrote here")
def command(
    network: Path | None,
    seeds: str | None,
    projected: Path | None,
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

    
    noisegan generate --projected inverted/photo --outdir out
    noisegan generate --projected inverted --noise-mode fresh --outdir out

    Renders inversions again, one or a folder of them: with the noise found (the very bytes of proj.png), or with the
    noise of --noise-mode, where frozen is the noise that --noise fixed keeps. The network is the one that was inverted,
    unless --network says where it is now.
    """
    from noisegan import facade

    if (seeds is None) == (projected is None):
        raise NoiseganError("give either --seeds, such as --seeds 0-35,40, or --projected with a folder of inversions")
    plugins = load_plugins(plugin_files)
    if projected is not None:
        chosen = click.get_current_context().get_parameter_source("noise_mode") is not ParameterSource.DEFAULT
        for name, given in (("--trunc", trunc != 1), ("--class", class_index is not None)):
            if given:
                raise NoiseganError(f"{name} has no meaning with --projected: its w is what was found; leave it out")
        mode = noise_mode if chosen else None
        if mode is None and noise_seed is not None:
            raise NoiseganError(
                "--noise-seed has no meaning with --projected alone: its noise is what was found; add --noise-mode, or "
                "leave it out"
            )
        _render_projected(projected, network, mode, noise_seed, outdir, device, plugins)
        return
    if network is None or seeds is None:
        raise NoiseganError("--network is missing: give a run folder or a snapshot")
    numbers = parse_seeds(seeds)
    snapshot = facade.load(network, plugins=plugins, device=device)
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


def _render_projected(
    folder: Path,
    network: Path | None,
    mode: str | None,
    noise_seed: int | None,
    outdir: Path,
    device: str,
    plugins: Plugins,
) -> None:
    """Render inversions with the noise that was found (mode None) or with that of a mode."""
    from noisegan.inversion.folders import render_again

    own = mode == "frozen" and noise_seed is None
    seed = None if mode is None or own else resolve_noise_seed(mode, noise_seed)
    open_outdir(outdir)
    done = []
    for name, image in render_again(
        folder, network, mode=mode, noise_seed=seed, device=device, plugins=plugins, tell=click.echo
    ):
        save_image(image, outdir / f"{name}.png")
        done.append(name)
    settings = {
        "projected": str(folder),
        "images": done,
        "noise_mode": mode or "as found",
        "noise_seed": "as projected" if own else seed,
    }
    write_json(outdir / "generate.json", settings | {"network": str(network) if network is not None else None})
    click.echo(f"{len(done)} images in {outdir} (noise {settings['noise_mode']}, noise seed {settings['noise_seed']})")
