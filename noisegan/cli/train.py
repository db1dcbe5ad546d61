"""`noisegan train`: the fields of `TrainConfig` as options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import click

from noisegan.cli.options import load_plugins, plugin_option
from noisegan.core.config import TrainConfig
from noisegan.errors import NoiseganError


def _config_options(function: Any) -> Any:
    """One option per field of `TrainConfig`; values are checked by the config itself."""
    for name, field in reversed(TrainConfig.model_fields.items()):
        kinds = {field.annotation, *get_args(field.annotation)}
        kind = next((k for k in (bool, float, int) if k in kinds), str)
        default = "" if field.default is None or field.is_required() else f"  [default: {field.default}]"
        extra: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if kind is bool else {}
        option = click.option(
            f"--{name.replace('_', '-')}", type=kind, help=f"{field.description}{default}", default=None, **extra
        )
        function = option(function)
    return function


@click.command("train")
@_config_options
@plugin_option
@click.option("--resume", type=click.Path(path_type=Path), help="go on from a run folder or snapshot")
@click.option("-n", "--dry-run", is_flag=True, help="print the resolved options as JSON and stop")
def command(plugin_files: tuple[Path, ...], resume: Path | None, dry_run: bool, **options: Any) -> None:
    """Train a generator with a noise strategy.

    \b
    noisegan train --data digits --cfg tiny --noise fuzzy --kimg 20 --outdir runs
    noisegan train --resume runs/00000-digits-tiny-fuzzy
    torchrun --nproc-per-node 2 -m noisegan train --data photos.zip --cfg f --outdir runs

    Options left out take the preset's value (--cfg). Lengths are in thousands of real images (kimg).
    """
    from noisegan import facade

    given = {name: value for name, value in options.items() if value is not None}
    if resume is None and "outdir" not in given and not dry_run:
        raise NoiseganError("--outdir is missing: say where run folders are to be made, for example --outdir runs")
    plugins = load_plugins(plugin_files)
    if dry_run:
        given.setdefault("outdir", "runs")
        click.echo(json.dumps(facade.dry_run(resume=resume, plugins=plugins, **given), indent=2))
        return
    facade.train(resume=resume, plugins=plugins, **given)
