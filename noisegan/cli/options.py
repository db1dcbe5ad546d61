"""Options and parsers that several commands share."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from noisegan.core.noise import NOISE_MODES
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins

MOST_SEEDS = 1_000_000

F = TypeVar("F", bound=Callable[..., Any])


def plugin_option(function: F) -> F:
    """`--plugin FILE.py`, repeatable: load a Python file as a plugin for this command."""
    return click.option(
        "--plugin",
        "plugin_files",
        metavar="FILE.py",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Load a Python file as a plugin (repeatable).",
    )(function)


def load_plugins(files: tuple[Path, ...]) -> Plugins:
    """All plugins; those that could not be loaded are named on standard error."""
    plugins = Plugins(files)
    for refusal in plugins.refused:
        click.echo(f"warning: {refusal}", err=True)
    return plugins


def boolean_option(*names: str, default: bool | None, help: str) -> Callable[[F], F]:
    """An option that may stand alone or take a value: `--mirror`, `--mirror=1`, `--mirror=false`."""
    return click.option(*names, is_flag=False, flag_value=True, default=default, type=bool, help=help)


def parse_seeds(text: str, what: str = "seeds") -> list[int]:
    """Numbers such as `0-35,40` in the order given.

    Raises:
        NoiseganError: when the text is not a list of numbers and ranges, or there are more than a million.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first:
            raise NoiseganError(f"cannot read the {what} {text!r} at {part!r}; write for example 0-35,40")
        if last >= 2**32:
            raise NoiseganError(f"{last} is too large: {what} are 0 to {2**32 - 1}")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise NoiseganError(f"{text!r} are more than {MOST_SEEDS} {what}: make them in several parts")
        seeds.extend(range(first, last + 1))
    return seeds


def network_options(*, network_required: bool = True) -> Callable[[F], F]:
    """What every command that renders a trained generator takes."""
    options = (
        click.option(
            "--network", required=network_required, type=click.Path(path_type=Path), help="run folder or snapshot"
        ),
        click.option("--trunc", default=1.0, show_default=True, help="truncation psi"),
        click.option("--class", "class_index", type=int, help="class of a conditional network"),
        click.option(
            "--noise-mode",
            type=click.Choice(NOISE_MODES),
            default="frozen",
            show_default=True,
            help="frozen: an image's noise depends on its seed; fresh: new noise; off: none",
        ),
        click.option("--noise-seed", type=click.IntRange(min=0), help="default: 0 if frozen, random if fresh"),
        click.option("--outdir", required=True, type=click.Path(path_type=Path), help="folder for the images"),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps or auto"),
        plugin_option,
    )
    return _all(*options)


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which help shows them."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def held_out_options(function: F) -> F:
    """Which real images stand for those that a network never saw. Commands word `--images` themselves."""
    return _all(
        click.option("--data", help="real images it was not trained on; fashion-mnist: its test images"),
        click.option("--resize", help="how real images are resized  [default: as for training]"),
        click.option("--crop", help="how real images are cropped  [default: as for training]"),
        click.option("--allow-trained", is_flag=True, help="draw from training images too, and say which they are"),
        click.option("--draw-seed", default=0, show_default=True, type=click.IntRange(0), help="of that draw"),
    )(function)


def projector_options(function: F) -> F:
    """How images are inverted; all but space and noise, which are the factors of evaluations."""
    return _all(
        click.option("--steps", "--num-steps", default=1000, show_default=True, help="schedules are shares of them"),
        click.option(
            "--loss", default="st-lpips-alex", show_default=True, help="such as lpips-vgg, or lpips-vgg=1,mse=0.1"
        ),
        click.option("--lr", default=0.1, show_default=True, help="largest learning rate"),
        click.option("--noise-weight", default=1e5, show_default=True, help="weight of the noise's autocorrelation"),
        click.option("--class", "class_index", type=int, help="class of a conditional network; needed for space z"),
        click.option("--pti-steps", default=350, show_default=True, help="steps of pivotal tuning, in space pti"),
        click.option("--pti-lr", default=3e-4, show_default=True, help="its learning rate"),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="of perturbations"),
        click.option(
            "--noise-seed", default=0, show_default=True, type=click.IntRange(0), help="of noise at the start"
        ),
        click.option("--batch", default=16, show_default=True, type=click.IntRange(1), help="images at a time"),
        click.option("--precision", default="fp32", show_default=True, help="fp32; bf16 in large layers"),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps or auto"),
        plugin_option,
    )(function)


def resolve_noise_seed(mode: str, seed: int | None) -> int | None:
    """The noise seed that a mode uses, None when noise is off; chosen here so that it can be recorded."""
    if mode == "off":
        return None
    if seed is not None:
        return seed
    return 0 if mode == "frozen" else secrets.randbits(31)


def open_outdir(path: Path) -> None:
    """Make a folder for results.

    Raises:
        NoiseganError: when it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoiseganError(f"cannot write to {path}: {error.strerror or error}; choose another --outdir") from None
