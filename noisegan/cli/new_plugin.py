"""`noisegan new-plugin`: a plugin package that installs, passes its tests, and waits for a formula."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from string import Template

import click

from noisegan.errors import NoiseganError
from noisegan.files import temporary_folder, unwritable
from noisegan.manager import Plugins

FILES = {
    "pyproject.toml.template": "pyproject.toml",
    "README.md.template": "README.md",
    "module.py.template": "noisegan_{name}.py",
    "test.py.template": "tests/test_{name}.py",
}
"""Template in `noisegan/cli/templates` to the file it becomes."""


@click.command("new-plugin")
@click.argument("name")
@click.option(
    "--outdir",
    default=Path(),
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write the package folder into; default: the current one.",
)
def command(name: str, outdir: Path) -> None:
    """Write a plugin package noisegan-NAME to start from.

    NAME is the name of the noise strategy: lower-case letters, digits and single underscores, not at its end.

    \b
    noisegan new-plugin ripple
    cd noisegan-ripple && pip install -e '.[test]' && pytest
    """
    folder = write_plugin(name, outdir)
    click.echo(f"wrote {folder}; next: cd {folder} && pip install -e '.[test]' && pytest")


def write_plugin(name: str, outdir: Path) -> Path:
    """Write the package; returns its folder.

    Raises:
        NoiseganError: when the name is malformed or taken, the folder exists or cannot be written;
            nothing is left behind then.
    """
    # noisegan-NAME must be a package's name (PEP 508: a letter or digit at its end), and pip takes __ for _ (PEP 503).
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        hint = re.sub(r"[^a-z0-9]+", "_", name.lower()).lstrip("_0123456789").rstrip("_")
        raise NoiseganError(
            f"plugin name {name!r} must start with a letter, end with a letter or digit, and hold lower-case letters, "
            f"digits and single underscores only" + (f"; write for example {hint}" if hint else "")
        )
    taken = Plugins().strategies.get(name)
    if taken is not None:
        raise NoiseganError(
            f"plugin name {name!r} is taken by a noise strategy of {taken[1].plugin!r} ({taken[1].location});"
            " choose another"
        )
    folder = outdir / f"noisegan-{name}"
    if os.path.lexists(folder):
        raise NoiseganError(f"{folder} exists already; choose another name or another --outdir")
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        with temporary_folder(outdir, ".new-plugin-") as temporary:
            _fill(temporary, name)
            temporary.rename(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def _fill(folder: Path, name: str) -> None:
    """Write the templates into a folder, the name put in."""
    words = {
        "name": name,
        "module": f"noisegan_{name}",
        "Class": "".join(part.capitalize() for part in name.split("_")),
    }
    templates = resources.files("noisegan.cli") / "templates"
    for template, target in FILES.items():
        path = folder / target.format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (templates / template).read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(words), encoding="utf-8")
