"""`noisegan compare`: an experiment file, or its short form, in; one report out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from noisegan.cli.options import plugin_option
from noisegan.errors import NoiseganError

TRAIN = ("data", "cfg", "kimg", "tick", "snap", "batch", "resolution", "resize", "device")
EVALUATION = ("metrics", "extractors", "samples", "real_samples", "snapshots")


@click.command("compare")
@click.argument("file", required=False, metavar="[FILE.toml]", type=click.Path(path_type=Path))
@click.option("--outdir", required=True, type=click.Path(path_type=Path), help="the comparison's folder")
@click.option("--jobs", default=1, show_default=True, help="runs at a time, the cores shared out among them")
@plugin_option
@click.option("--data", help="folder, zip, .npz, .npy or IDX file of images, or digits, fashion-mnist")
@click.option("--variants", help="strategies to compare, such as none,additive,'fuzzy(alpha=0.3)'")
@click.option("--baseline", help="which of them the others are compared with  [default: the first]")
@click.option("--replicates", type=int, help="training seeds, from 0  [default: 3]")
@click.option("--kimg", type=float, help="length of each training in thousands of images")
@click.option("--cfg", help="preset of `noisegan train`")
@click.option("--tick", type=float, help="kimg between reports")
@click.option("--snap", type=int, help="ticks between snapshots, each of which is scored")
@click.option("--batch", type=int, help="images per step")
@click.option("--resolution", type=int, help="image size")
@click.option("--resize", help="how images are resized")
@click.option("--device", help="cpu, cuda, cuda:N, mps or auto")
@click.option("--metrics", help="such as fd,kid,precision; the first decides the verdict")
@click.option("--extractors", help="such as st-lpips-alex,efficientnet-lite0 or inception")
@click.option("--samples", type=int, help="generated images per snapshot")
@click.option("--real-samples", type=int, help="real images at most")
@click.option("--snapshots", help="score `all` snapshots or the `final` ones")
@click.option("--allow-unpaired", is_flag=True, help="compare unpaired runs, and say so in the report")
def command(file: Path | None, outdir: Path, jobs: int, plugin_files: tuple[Path, ...], **options: Any) -> None:
    """Train and score noise strategies side by side, and report which is better.

    \b
    noisegan compare examples/quickstart.toml --outdir out
    noisegan compare --data digits --variants none,additive,fuzzy --replicates 3 --kimg 2 --outdir out

    Leaves results.json and report/index.html. Stopped at any moment, the same command goes on. With a FILE, everything
    about the experiment stands in it.
    """
    from noisegan.compare.board import print_verdict
    from noisegan.compare.runner import compare

    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if file is not None and given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise NoiseganError(f"{names} cannot stand beside a FILE: write it into {file}, or leave the file out")
    if file is None and "variants" not in given:
        raise NoiseganError("give an experiment FILE.toml, or --data, --variants and --kimg")
    results = compare(file if file is not None else _content(given), outdir, jobs=jobs, plugins=plugin_files)
    print_verdict(results, outdir)


def _content(given: dict[str, Any]) -> dict[str, Any]:
    """The short form as the content of an experiment file."""
    lists = {
        name: tuple(word.strip() for word in given[name].split(","))
        for name in ("metrics", "extractors")
        if name in given
    }
    given = given | lists
    variants = [{"noise": noise} for noise in split_variants(given["variants"])]
    content: dict[str, Any] = {
        "name": " / ".join(v["noise"] for v in variants),
        "train": {name: given[name] for name in TRAIN if name in given},
        "variants": variants,
        "evaluation": {name: given[name] for name in EVALUATION if name in given},
    }
    return content | {name: given[name] for name in ("baseline", "replicates", "allow_unpaired") if name in given}


def split_variants(text: str) -> list[str]:
    """Expressions between commas that stand outside parentheses.

    Raises:
        NoiseganError: when one is empty.
    """
    parts = [part.strip() for part in re.split(r",(?![^(]*\))", text)]
    if not all(parts):
        raise NoiseganError(f"--variants {text!r} has an empty entry; write for example none,additive,fuzzy")
    return parts
