"""The command line. One file per command, imported when used, so that `noisegan --help` answers at once."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from typing import NoReturn

import click

from noisegan import __version__
from noisegan.errors import Interrupted, NoiseganError

COMMANDS = {
    "compare": (
        "noisegan.cli.compare",
        "Train and score noise strategies side by side; the report says which is better.",
    ),
    "report": ("noisegan.cli.report", "Write the report of a comparison anew."),
    "metrics": ("noisegan.cli.metrics", "Score one snapshot."),
    "train": ("noisegan.cli.train", "Train a generator with a noise strategy."),
    "generate": ("noisegan.cli.generate", "Make images with a trained generator."),
    "style-mix": ("noisegan.cli.style_mix", "Mix the styles of two sets of seeds into a table of images."),
    "project": ("noisegan.cli.project", "Invert images: find the latent and the noise that show them."),
    "invert-eval": ("noisegan.cli.invert_eval", "Measure how well a network can be inverted."),
    "attribute": ("noisegan.cli.attribute", "Decide which images a network has made."),
    "train-encoder": ("noisegan.cli.train_encoder", "Train an encoder that inversions start from."),
    "dataset": ("noisegan.cli.dataset", "Describe, check or pack a data set."),
    "strategies": ("noisegan.cli.strategies", "List the noise strategies and their parameters."),
    "manifolds": ("noisegan.cli.manifolds", "List the manifolds that noise can be carried to."),
    "check": ("noisegan.cli.check", "Run the conformance suite on a noise strategy."),
    "new-plugin": ("noisegan.cli.new_plugin", "Write a plugin package to start from."),
    "doctor": ("noisegan.cli.doctor", "Show what noisegan runs on here, and test its operations."),
    "ext": ("noisegan.cli.ext", "Build the native operations, or remove what was built."),
}


class LazyCommands(click.Group):
    """A group whose commands are imported when one is called; each module names its command `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, package_name="noisegan")
def cli() -> None:
    """Swap the way noise enters a StyleGAN2, change nothing else, and get an answer you can trust."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line: 0 done, 1 a fault of noisegan, 2 a mistake of the user, 130 interrupted.

    What the system refuses (a full disk, a folder that cannot be read) is no fault of noisegan: 2. When the reader of
    the output has gone, as `| head` does, it ends without a word, with 1.
    """
    if arguments is None:  # this process ends with the command
        atexit.register(gc.freeze)  # Python's last look for garbage, among all that torch defines, takes half a second
    try:
        code = cli.main(args=arguments, prog_name="noisegan", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except Interrupted as stop:
        click.echo(str(stop), err=True)
        sys.exit(130)
    except NoiseganError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        _abandon_output()
        sys.exit(1)
    except OSError as error:
        _abandon_output()
        where = f"{error.filename}: " if error.filename is not None else ""
        click.echo(f"error: {where}{' '.join(str(error.strerror or error).split())}", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _abandon_output() -> None:
    """Where standard output takes no more, send what is left of it nowhere: Python flushes it again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (AttributeError, ValueError):
        return  # there is none, or it is closed
