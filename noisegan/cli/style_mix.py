"""`noisegan style-mix`: a table of images with coarse styles by row and chosen styles by column."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from noisegan.cli.options import load_plugins, network_options, open_outdir, parse_seeds, resolve_noise_seed
from noisegan.core.images import make_grid, save_image, to_bytes
from noisegan.core.sampling import render, styles_of_seeds
from noisegan.errors import NoiseganError
from noisegan.files import write_json


@click.command("style-mix")
@network_options()
@click.option("--rows", required=True, help="seeds of the rows, such as 0-3")
@click.option("--cols", required=True, help="seeds of the columns")
@click.option("--styles", "layers", default="0-2", show_default=True, help="styles taken from the column, such as 0-2")
def command(
    network: Path,
    rows: str,
    cols: str,
    layers: str,
    trunc: float,
    class_index: int | None,
    noise_mode: str,
    noise_seed: int | None,
    outdir: Path,
    device: str,
    plugin_files: tuple[Path, ...],
) -> None:
    """Mix the styles of two sets of seeds (Karras et al. 2019, figure 3).

    \b
    noisegan style-mix --network runs/00000-digits-tiny-fuzzy --rows 0-3 --cols 10-14 --styles 0-2 --outdir out

    Writes ROW-COL.png, grid.png (first row and column: the seeds themselves) and style-mix.json. An image has the
    noise of its row's seed, so that only styles differ along a row.
    """
    from noisegan import facade

    row_seeds, col_seeds, chosen = parse_seeds(rows), parse_seeds(cols), parse_seeds(layers, "styles")
    snapshot = facade.load(network, plugins=load_plugins(plugin_files), device=device)
    G = snapshot.G_ema
    if max(chosen) >= G.num_ws:
        raise NoiseganError(f"--styles {layers} is out of range: this network has styles 0 to {G.num_ws - 1}")
    noise_seed = resolve_noise_seed(noise_mode, noise_seed)
    row_ws = styles_of_seeds(G, row_seeds, truncation=trunc, class_index=class_index)  # [R, num_ws, D]
    col_ws = styles_of_seeds(G, col_seeds, truncation=trunc, class_index=class_index)  # [C, num_ws, D]
    mixed = row_ws[:, None].repeat(1, len(col_seeds), 1, 1)  # [R, C, num_ws, D]
    mixed[:, :, chosen] = col_ws[None, :, chosen]
    ws = torch.cat([col_ws, torch.cat([row_ws[:, None], mixed], dim=1).flatten(0, 1)])
    ids = [*col_seeds, *(seed for seed in row_seeds for _ in range(len(col_seeds) + 1))]
    open_outdir(outdir)
    batches = render(G, ws, ids, mode=noise_mode, noise_seed=noise_seed)
    images = torch.cat([to_bytes(batch).cpu() for batch in batches])
    table = torch.cat([torch.full_like(images[:1], 255), images])  # an empty corner
    save_image(make_grid(table, len(col_seeds) + 1), outdir / "grid.png")
    cells = images[len(col_seeds) :].view(len(row_seeds), len(col_seeds) + 1, *images.shape[1:])
    for i, row in enumerate(row_seeds):
        for j, col in enumerate(col_seeds):
            save_image(cells[i, j + 1], outdir / f"{row}-{col}.png")
    settings = {
        "network": str(snapshot.path),
        "rows": row_seeds,
        "cols": col_seeds,
        "styles": chosen,
        "trunc": trunc,
        "class": class_index,
        "noise_mode": noise_mode,
        "noise_seed": noise_seed,
    }
    write_json(outdir / "style-mix.json", settings)
    click.echo(f"{len(row_seeds)} x {len(col_seeds)} images in {outdir} (noise {noise_mode}, noise seed {noise_seed})")
