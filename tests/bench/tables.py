"""The figures as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table

Rows = Sequence[dict[str, Any]]


def ops(rows: Rows) -> Table:
    table = _table(
        "operations: plain eager PyTorch / noisegan",
        ("op", "shape", "dtype", "layout", "pass"),
        ("plain ms", "noisegan ms", "ratio"),
    )
    for row in rows:
        shape = ",".join(map(str, row["shape"]))
        figures = (f"{row['plain_s'] * 1e3:.3f}", f"{row['noisegan_s'] * 1e3:.3f}", f"{row['ratio']:.2f}")
        table.add_row(row["op"], shape, row["precision"], row["layout"], row["pass"], *figures)
    return table


def step(rows: Rows) -> Group:
    """Times of a step and of sampling; beside each the bare convolutions, torch's and noisegan's, as a share of it."""
    words, floors = ("size", "dtype", "impl", "backend"), ("torch's floor", "own floor")
    train = _table(
        "training step, lazy regularisers weighted in",
        words,
        ("G", "PL", "D", "R1", "rest ms", "step ms", "img/s", "x naive", "x its fp32", "x fp32", *floors),
    )
    sample = _table("sampling", words, ("batch ms", "img/s", "x naive", *floors))
    for row in rows:
        naive = _find(rows, row, impl="naive")
        naive_fp32 = _find(rows, row, impl="naive", precision="fp32")
        fp32 = _find(rows, row, precision="fp32")
        about = row["size"], row["precision"], row["impl"], row["backend"]
        phases = [f"{row.get(f'train/{name}_s', 0.0) * 1e3:.0f}" for name in ("G", "PL", "D", "R1", "rest")]
        train.add_row(
            *about, *phases, f"{row['train_s'] * 1e3:.0f}", f"{row['train_img_per_s']:.1f}",
            _ratio(naive, row, "train_s"), _ratio(naive_fp32, row, "train_s"), _ratio(fp32, row, "train_s"),
            _percent(row.get("train_floor_share")), _percent(row.get("train_own_floor_share")),
        )  # fmt: skip
        sample.add_row(
            *about, f"{row['sample_s'] * 1e3:.0f}", f"{row['sample_img_per_s']:.1f}", _ratio(naive, row, "sample_s"),
            _percent(row.get("sample_floor_share")), _percent(row.get("sample_own_floor_share")),
        )  # fmt: skip
    return Group(train, sample)


def invert(rows: Rows) -> Table:
    table = _table(
        "inversion: images per minute at 1,000 steps, one at a time and in batches of the same steps",
        ("size", "dtype", "noise"),
        ("one at a time", "batch 16", "ratio"),
    )
    for row in rows:
        figures = (f"{row['one_img_per_min']:.2f}", f"{row['many_img_per_min']:.2f}", f"{row['ratio']:.2f}")
        table.add_row(row["size"], row["precision"], row["noise"], *figures)
    return table


def strategies(rows: Rows) -> Table:
    table = _table(
        "strategies: time beyond that of `none`",
        ("size", "dtype", "strategy"),
        ("step ms", "training", "sample ms", "sampling"),
    )
    for row in rows:
        table.add_row(
            row["size"], row["precision"], row["strategy"], f"{row['train_s'] * 1e3:.0f}",
            f"{row['train_overhead']:+.1%}", f"{row['sample_s'] * 1e3:.1f}", f"{row['sample_overhead']:+.1%}",
        )  # fmt: skip
    return table


def generator(rows: Rows) -> Table:
    table = _table(
        "the generator forward and backward, drawing included, beside `none`",
        ("size", "dtype", "strategy"),
        ("ms", "x none"),
    )
    for row in rows:
        table.add_row(
            row["size"], row["precision"], row["strategy"], f"{row['generator_s'] * 1e3:.0f}", f"{row['to_none']:.2f}"
        )
    return table


def _table(title: str, words: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(title=title)
    for name in words:
        table.add_column(name, no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _find(rows: Rows, like: dict[str, Any], **changed: str) -> dict[str, Any] | None:
    """The row that differs from `like` in `changed` alone."""
    wanted = {key: like[key] for key in ("size", "precision", "impl", "strategy")} | changed
    return next((row for row in rows if all(row[key] == value for key, value in wanted.items())), None)


def _ratio(other: dict[str, Any] | None, row: dict[str, Any], key: str) -> str:
    return "" if other is None or other is row else f"{other[key] / row[key]:.2f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
