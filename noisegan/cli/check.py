"""`noisegan check`: run the conformance suite on the strategies of an expression."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from noisegan.api import Strategy
from noisegan.cli.options import load_plugins, plugin_option
from noisegan.testing import CHECKS, CheckResult, check_strategy


@click.command("check")
@click.argument("expression", metavar="NAME_OR_EXPRESSION")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the inputs tried.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@plugin_option
def command(expression: str, seed: int, as_json: bool, plugin_files: tuple[Path, ...]) -> None:
    """Run the conformance suite on a noise strategy.

    NAME_OR_EXPRESSION is a strategy such as fuzzy or 'fuzzy(form=additive)'; of several, joined by +, each is checked.
    Exits with status 0 when every check passes and 1 when one fails.

    \b
    noisegan check fuzzy
    noisegan check my_noise --plugin my_noise.py

    The JSON is a list of objects {strategy, name, point, passed, detail}.
    """
    strategies = load_plugins(plugin_files).parse(expression)
    results = [(strategy, check_strategy(strategy, seed)) for strategy in strategies]
    if as_json:
        click.echo(json.dumps([{"strategy": str(s)} | asdict(r) for s, found in results for r in found], indent=2))
    else:
        for strategy, found in results:
            _print(strategy, found)
    if not all(result.passed for _, found in results for result in found):
        sys.exit(1)


def _print(strategy: Strategy, results: list[CheckResult]) -> None:
    """One row per check; a failing one says where and why."""
    table = Table(title=escape(str(strategy)), title_justify="left")
    table.add_column("check", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("promise, or what was wrong")
    for name, check in CHECKS.items():
        found = [result for result in results if result.name == name]
        failed = [result for result in found if not result.passed]
        if failed:
            reasons = "\n".join(f"{result.point}: {result.detail}" for result in failed)
            table.add_row(name, "[red]FAIL[/red]", escape(reasons))
        elif found:
            table.add_row(name, "[green]pass[/green]", escape(check.promise))
    Console().print(table)
    failed = [result for result in results if not result.passed]
    names = sorted({result.name for result in failed})
    click.echo(
        f"{strategy.name}: {len(results) - len(failed)} of {len(results)} checks passed"
        + (f"; failed: {', '.join(names)}" if names else "")
    )
