"""python -m bench: run the benchmarks, print tables, write JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

from bench import generator, invert, measure, ops, step, tables
from bench.workload import SIZES, clock_for
from noisegan.core.memory import keep_freed_memory

PARTS = ("ops", "step", "strategies", "generator", "invert")
WIDTH = 170
"""Columns of a table that goes to a file."""
DEFAULT_SIZES = ("32", "64", "128")


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="threads; 1 measures CPU time")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(("cpu", "cuda")))
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="rounds; medians are shown")
@click.option(
    "--only", multiple=True, type=click.Choice((*PARTS, *ops.NAMES)), help="a part, or one operation; may be repeated"
)
@click.option("--sizes", multiple=True, type=click.Choice(tuple(SIZES)), help="default: 32, 64, 128; may be repeated")
@click.option("--precision", multiple=True, type=click.Choice(("fp32", "bf16", "fp16")), help="default: fp32, bf16")
@click.option(
    "--impl",
    multiple=True,
    type=click.Choice(("noisegan", "nographs", "naive")),
    help="of the step; default: noisegan, naive",
)
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="file for the figures")
def main(
    threads: int,
    device: str,
    rounds: int,
    only: Sequence[str],
    sizes: Sequence[str],
    precision: Sequence[str],
    impl: Sequence[str],
    path: Path | None,
) -> None:
    torch.set_num_threads(threads)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    progress = Console(stderr=True)
    clock = clock_for(device, threads)
    sizes, precision = sizes or DEFAULT_SIZES, precision or ("fp32", "bf16")
    parts = only or PARTS
    names = ops.NAMES if "ops" in parts else [name for name in ops.NAMES if name in parts]
    kept = keep_freed_memory()  # for both sides of the operations; a step's process sees to itself
    results: dict[str, Any] = {"facts": measure.facts(threads=threads, rounds=rounds, clock=clock, device=device)}
    results["facts"]["allocator"] = "kept" if kept else "system"
    console.print(results["facts"])

    def save(part: str, rows: list[dict[str, Any]]) -> None:
        """Show a part; what is there is written after each, as a long run may be stopped."""
        results[part] = rows
        console.print(getattr(tables, part)(rows))
        if path is not None:
            path.write_text(json.dumps(results, indent=1) + "\n")

    def tell(line: str) -> None:
        progress.print(line, style="dim")

    if names:
        shapes = ops.TOY_SHAPES if tuple(sizes) == ("toy",) else ops.SHAPES
        save(
            "ops", list(ops.run(names, precisions=precision, shapes=shapes, device=device, rounds=rounds, clock=clock))
        )
    if "step" in parts:
        impls = impl or ("noisegan", "naive")
        rows = step.run(
            sizes, precisions=precision, impls=impls, threads=threads, device=device, rounds=rounds, tell=tell
        )
        save("step", list(rows))
    if "strategies" in parts:
        rows = step.strategies(sizes, precisions=precision, threads=threads, device=device, rounds=rounds, tell=tell)
        save("strategies", list(rows))
    if "generator" in parts:
        rows = generator.run(sizes, precisions=precision, device=device, rounds=rounds, clock=clock, tell=tell)
        save("generator", list(rows))
    if "invert" in parts:
        rows = invert.run(sizes, precisions=precision, device=device, rounds=rounds, clock=clock, tell=tell)
        save("invert", list(rows))


if __name__ == "__main__":
    main()
