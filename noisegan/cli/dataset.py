"""`noisegan dataset`: describe a data set, check every image of it, or pack it into one zip file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from noisegan.cli.options import boolean_option
from noisegan.core.data import CROPS, RESIZES, RESOLUTIONS, open_dataset
from noisegan.core.data.locate import open_source
from noisegan.core.data.pack import check_destination, pack_dataset
from noisegan.core.data.survey import describe_raw, find_faults
from noisegan.core.reporting import counting
from noisegan.errors import NoiseganError

COLOURS = {None: "they differ", 1: "1 (grey)", 3: "3 (RGB)", 4: "4 (RGBA)"}

workers_option = click.option(
    "--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Threads that decode."
)


@click.group()
def command() -> None:
    """Describe, check or pack a data set.

    SOURCE is a folder or zip of images with an optional dataset.json, an .npz or .npy file, an IDX file (.gz) as MNIST
    ships, or a name: digits, fashion-mnist.
    """


@command.command()
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as a run records it.")
@boolean_option("--cond", default=False, help="Fingerprint images and labels, as a conditional run does.")
@workers_option
def info(source: str, as_json: bool, cond: bool, workers: int) -> None:
    """Describe a data set as it lies there: sizes, colours, classes, fingerprint."""
    with counting("reading") as progress:
        described = describe_raw(source, cond=cond, workers=workers, progress=progress)
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in _rows(described):
        table.add_row(key, value)
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    console.print(table, highlight=False, markup=False)


@command.command()
@click.argument("source")
@workers_option
def check(source: str, workers: int) -> None:
    """Decode every image and name each that is corrupt, odd in size or colour, or not square.

    Exits with status 2 when there is one.
    """
    with counting("checking") as progress:
        n_images, faults = find_faults(source, workers=workers, progress=progress)
    for fault in faults:
        click.echo(fault)
    if faults:
        click.echo(f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'} in {n_images} images of {source}")
        sys.exit(2)
    click.echo(f"all {n_images} images of {source} are fine")


@command.command()
@click.argument("source")
@click.argument("destination", metavar="DEST.zip", type=click.Path(path_type=Path))
@click.option("--resolution", type=int, metavar="R", help=f"Pixels of a side: {', '.join(map(str, RESOLUTIONS))}.")
@click.option("--resize", type=click.Choice(RESIZES), help="How to change the size; pad adds a black margin.")
@click.option("--crop", type=click.Choice(CROPS), help="Take the largest centred square.")
@boolean_option("--cond", default=None, help="Pack the labels too.  [default: when there are any]")
@click.option("--force", is_flag=True, help="Replace DEST.zip if it exists.")
@workers_option
def pack(
    source: str,
    destination: Path,
    resolution: int | None,
    resize: str | None,
    crop: str | None,
    cond: bool | None,
    force: bool,
    workers: int,
) -> None:
    """Write a data set as one zip file of PNG images, as StyleGAN's tools do."""
    check_destination(destination, force=force)
    if cond is None:
        cond = _has_labels(source)
    with counting("reading") as progress:
        dataset = open_dataset(
            source, resolution=resolution, resize=resize, crop=crop, cond=cond, workers=workers, progress=progress
        )
    with counting("packing") as progress:
        fingerprint = pack_dataset(dataset, destination, force=force, workers=workers, progress=progress)
    labels = f"{dataset.c_dim} classes" if cond else "no labels"
    size = f"{dataset.resolution}x{dataset.resolution}"
    click.echo(f"wrote {destination}: {len(dataset)} images, {size}, {COLOURS[dataset.channels]}, {labels}")
    click.echo(f"fingerprint {fingerprint}")


def _has_labels(source: str) -> bool:
    raw = open_source(source)
    try:
        return raw.classes() is not None
    except NoiseganError as error:
        raise NoiseganError(f"{error}; --cond=false packs the images without labels") from error


def _rows(described: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "name", described["name"]
    yield "path", described["path"] or "built in"
    yield "fingerprint", described["fingerprint"]
    yield "images", str(described["n_images"])
    sizes = list(described["sizes"].items())
    more = f" and {len(sizes) - 6} other sizes" if len(sizes) > 6 else ""
    yield "size", sizes[0][0] if len(sizes) == 1 else ", ".join(f"{n} of {size}" for size, n in sizes[:6]) + more
    yield "channels", COLOURS[described["channels"]]
    if described["resolution"] is None:
        default = described["default_resize"]
        how = f"(without it: {default})" if default else "and, if images are not square, --crop center"
        yield "to train", f"choose --resolution with --resize {how}"
    counts = described["class_counts"]
    if counts is None:
        yield "labels", described["labels_fault"] or "none"
    else:
        shown = ", ".join(f"{k}: {n}" for k, n in list(counts.items())[:20])
        yield "classes", f"{len(counts)} ({shown}{', ...' if len(counts) > 20 else ''})"
