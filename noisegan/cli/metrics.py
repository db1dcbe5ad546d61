"""`noisegan metrics`: score one snapshot."""

from __future__ import annotations

import json
from pathlib import Path

import click

from noisegan.cli.options import load_plugins, parse_seeds, plugin_option


@click.command("metrics")
@click.option("--network", required=True, type=click.Path(path_type=Path), help="run folder or snapshot")
@click.option("--data", help="real images  [default: those it was trained on]")
@click.option("--resize", help="how real images are resized  [default: as for training]")
@click.option("--crop", help="how real images are cropped  [default: as for training]")
@click.option("--metrics", default="fd,kid,precision,recall,density,coverage", show_default=True)
@click.option("--extractors", default="st-lpips-alex", show_default=True, help="st-lpips-alex, efficientnet-lite0, ...")
@click.option("--samples", default=10_000, show_default=True, help="generated images")
@click.option("--real-samples", default=10_000, show_default=True, help="real images at most")
@click.option("--seeds", default="0", show_default=True, help="evaluation seeds, such as 0-2; a line for each")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps or auto")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@plugin_option
def command(
    network: Path,
    data: str | None,
    resize: str | None,
    crop: str | None,
    metrics: str,
    extractors: str,
    samples: int,
    real_samples: int,
    seeds: str,
    device: str,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Score one snapshot, all metrics on the same images.

    \b
    noisegan metrics --network runs/00000-digits-tiny-fuzzy --data digits

    Adds a line to metric-<name>.jsonl beside the snapshot, too.
    """
    from noisegan.metrics.single import score_snapshot

    found = score_snapshot(
        network,
        data=data,
        resize=resize,
        crop=crop,
        metrics=_words(metrics),
        extractors=_words(extractors),
        samples=samples,
        real_samples=real_samples,
        seeds=parse_seeds(seeds),
        device=device,
        plugins=load_plugins(plugin_files),
    )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    width = max(len(line["title"]) for line in found["scores"])
    for line in found["scores"]:
        error = f" +- {line['std_error']:.2g}" if line["std_error"] is not None else ""
        seed = f"  (seed {line['seed']})" if len(found["seeds"]) > 1 else ""
        click.echo(f"{line['title']:{width}}  {line['value']:.6g}{error}{seed}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
