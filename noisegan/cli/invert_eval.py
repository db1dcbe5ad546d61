"""`noisegan invert-eval`: how well a network can be inverted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from noisegan.cli.options import held_out_options, load_plugins, open_outdir, parse_seeds, projector_options
from noisegan.errors import NoiseganError

DEFAULT = ParameterSource.DEFAULT


@click.command("invert-eval")
@click.option("--network", type=click.Path(path_type=Path), help="run folder or snapshot")
@click.option("--outdir", type=click.Path(path_type=Path), help="gets inversions and evaluation.json")
@click.option("--experiment", type=click.Path(path_type=Path), help="instead: folder of a finished comparison")
@click.option("--images", default=100, show_default=True, help="real images, drawn from those not trained on")
@click.option("--own-images", type=click.IntRange(0), help="images of the network itself  [default: as many]")
@click.option("--hard-labels", help="classes to report by themselves, such as 4,6")
@click.option("--spaces", default="w,w+", show_default=True, help="some of w,w+,z,pti")
@click.option("--noise", "noises", default="off,fixed,optimised", show_default=True, help="some of them")
@held_out_options
@projector_options
def command(
    network: Path | None,
    outdir: Path | None,
    experiment: Path | None,
    hard_labels: str | None,
    spaces: str,
    noises: str,
    plugin_files: tuple[Path, ...],
    **options: Any,
) -> None:
    """Measure how well a network can be inverted, and what its noise carries.

    \b
    noisegan invert-eval --network runs/00000-fashion-mnist-tiny-fuzzy --data fashion-mnist --images 100 --outdir out

    Inverts held-out images and the network's own, in every space with every kind of noise. Images that the network was
    trained on are left out. Writes evaluation.json, images.csv and the inversions. Stopped at any moment, the same
    command goes on.

    \b
    noisegan invert-eval --experiment out --data fashion-mnist

    With --experiment all networks of a finished comparison are asked to show the same images; the variants are compared
    in out/inversion and in the comparison's report. Options left out are then those of the experiment's table
    [evaluation.inversion].
    """
    from noisegan.compare.inversion import invert_experiment
    from noisegan.compare.runner import report
    from noisegan.inversion.evaluate import evaluate_inversion

    one = network is not None and outdir is not None
    if (experiment is not None) == one or (experiment is not None and (network is not None or outdir is not None)):
        raise NoiseganError(
            "give --network with --outdir, or --experiment with the folder of a comparison and neither of them"
        )
    plugins = load_plugins(plugin_files)
    options |= {
        "spaces": _words(spaces),
        "noises": _words(noises),
        "hard_labels": parse_seeds(hard_labels, "classes") if hard_labels else (),
        "plugins": plugins,
    }
    if experiment is not None:
        source = click.get_current_context().get_parameter_source
        given = {name: value for name, value in options.items() if source(name) is not DEFAULT}
        for line in invert_experiment(experiment, **given | {"plugins": plugins}):
            click.echo(line)
        click.echo(str(report(experiment, plugins=plugins)))
    elif network is not None and outdir is not None:
        open_outdir(outdir)
        for line in evaluate_inversion(network, outdir, **options):
            click.echo(line)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
