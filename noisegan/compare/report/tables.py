"""The report's numbers for other programs: CSV and JSON with every digit, LaTeX rounded like the page.

Tables are wide: each metric of each extractor has columns of its own, so two extractors never share one.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from noisegan.compare.report.numbers import (
    MINUS,
    NOTHING,
    decimals_for,
    fixed,
    half_width,
    interval_text,
    p_text,
    percent,
    significant,
)
from noisegan.compare.report.results import MetricInfo, Results, RunScore

Row = dict[str, Any]


def metric_rows(results: Results) -> list[Row]:
    """One row per variant; for each metric the summary and, beside it, the comparison with the baseline."""
    rows = []
    for variant in results.variants:
        row: Row = {"variant": variant.label}
        for metric in results.metrics:
            s, c = results.summary_of(metric.key, variant.label), results.comparison_of(metric.key, variant.label)
            low, high = (s and s.interval) or (None, None)
            d_low, d_high = (c and c.interval) or (None, None)
            cells = {
                "n": s and s.n,
                "mean": s and s.mean,
                "std": s and s.std,
                "low": low,
                "high": high,
                "difference": c and c.mean_difference,
                "difference_low": d_low,
                "difference_high": d_high,
                "p": c and c.p_value,
                "p_holm": c and c.p_holm,
                "verdict": c and c.verdict,
            }
            row |= {f"{metric.key} {name}": value for name, value in cells.items()}
        rows.append(row)
    return rows


def run_rows(results: Results) -> list[Row]:
    """One row per run; for each metric its value and the metric's own standard error."""
    rows = []
    for run in results.runs:
        row: Row = {"variant": run.variant, "seed": run.seed, "status": run.status, "nimg": run.nimg}
        for metric in results.metrics:
            score = run.scores.get(metric.key)
            row[f"{metric.key} value"] = score and score.value
            row[f"{metric.key} std_error"] = score and score.std_error
        rows.append(row)
    return rows


def cost_rows(results: Results) -> list[Row]:
    """One row per variant: parameters, and means over its runs of what was measured (the peak of memory: largest)."""
    rows: list[Row] = []
    for variant in results.variants:
        times = [t for t in results.timing.runs if t.variant == variant.label]
        memory = [t.peak_memory_gb for t in times if t.peak_memory_gb is not None]
        rows.append(
            {
                "variant": variant.label,
                "G_parameters": variant.parameters.G,
                "D_parameters": variant.parameters.D,
                "parameters_added": variant.parameters.added,
                "sec_per_kimg": _mean([t.sec_per_kimg for t in times]),
                "train_s": _mean([t.train_s for t in times]),
                "evaluation_s": _mean([t.evaluation_s for t in times]),
                "peak_memory_gb": max(memory, default=None),
            }
        )
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def as_csv(rows: Sequence[Row]) -> bytes:
    """A heading and one line per row; floats with every digit, nothing where there is no value."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]) if rows else ["variant"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def as_json(rows: Sequence[Row]) -> bytes:
    return (json.dumps(rows, indent=2, ensure_ascii=False) + "\n").encode()


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    MINUS: "$-$",
    NOTHING: "--",
} | {c: "\\" + c for c in "{}$&%#_"}


def escape_tex(text: str) -> str:
    """`text` as LaTeX prints it: its special characters escaped, line ends as spaces."""
    return "".join(_SPECIAL.get(c, c) for c in re.sub(r"\s+", " ", text))


def tex_table(heads: Sequence[Sequence[tuple[str, int]]], rows: Sequence[Sequence[str]], comment: str) -> bytes:
    """A tabular of plain-text cells.

    Args:
        heads: rows of headings, each a (text, columns spanned).
        rows: cells; the first column is left-aligned, the others are right-aligned.
    """
    width = sum(span for _, span in heads[0])
    lines = [
        f"% {comment}",
        "% needs \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
    ]
    for head in heads:
        cells = (escape_tex(t) if span == 1 else rf"\multicolumn{{{span}}}{{c}}{{{escape_tex(t)}}}" for t, span in head)
        lines.append(" & ".join(cells) + r" \\")
    lines.append(r"\midrule")
    # the empty group: after \\, a row that begins with [ or * would be read as an argument
    lines += ["{}" + " & ".join(escape_tex(cell) for cell in row) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return ("\n".join(lines) + "\n").encode()


def metrics_tex(results: Results) -> bytes:
    """Mean, difference to the baseline, both with intervals, corrected p and verdict, one group per metric."""
    level = percent(1 - results.experiment.alpha)
    rows = [[v.label] for v in results.variants]
    for metric in results.metrics:
        for row, cells in zip(rows, metric_cells(results, metric), strict=True):
            mean = f"{cells['mean']} {cells['interval']}".strip()
            difference = f"{cells['difference']} {cells['difference_interval']}".strip()
            row += [mean, difference, cells["p"], cells["verdict"]]
    heads = [
        [("", 1)] + [(f"{m.title}, {m.better} is better", 4) for m in results.metrics],
        [("variant", 1)] + [("mean", 1), ("difference", 1), ("p (Holm)", 1), ("verdict", 1)] * len(results.metrics),
    ]
    return tex_table(heads, rows, f"intervals at {level.replace(' %', ' per cent')}")


def metric_cells(results: Results, metric: MetricInfo) -> list[dict[str, str]]:
    """The cells of one metric's columns, rounded, one dict per variant; the same decimals down each column."""
    summaries = [results.summary_of(metric.key, v.label) for v in results.variants]
    comparisons = [results.comparison_of(metric.key, v.label) for v in results.variants]
    means = [s.mean for s in summaries if s]
    places = decimals_for((half_width(s.interval) for s in summaries if s), means)
    d_places = decimals_for((half_width(c.interval) for c in comparisons if c), means)
    found = []
    for variant, s, c in zip(results.variants, summaries, comparisons, strict=True):
        cells = dict.fromkeys(("interval", "difference_interval", "p", "verdict"), "") | {"mean": NOTHING}
        cells["difference"] = "baseline" if variant is results.baseline else NOTHING
        if s:
            cells |= {"mean": fixed(s.mean, places), "interval": interval_text(s.interval, places)}
        if c:
            cells["difference"] = fixed(c.mean_difference, d_places, sign=True)
            cells["difference_interval"] = interval_text(c.interval, d_places, sign=True)
            cells |= {"p": p_text(c.p_holm), "verdict": c.verdict}
        found.append(cells)
    return found


def run_cells(results: Results, metric: MetricInfo) -> list[str]:
    """Score of each run, rounded, with the metric's own standard error where it has one."""
    scores = [run.scores.get(metric.key, RunScore(value=None)) for run in results.runs]
    intervals = (half_width(s.interval) for s in results.summary if s.metric == metric.key)
    places = decimals_for(intervals, (s.value for s in scores))
    return [
        fixed(s.value, places) + ("" if s.std_error is None else f" \N{PLUS-MINUS SIGN} {fixed(s.std_error, places)}")
        for s in scores
    ]


def runs_tex(results: Results) -> bytes:
    columns = [run_cells(results, metric) for metric in results.metrics]
    rows = [
        [run.variant, str(run.seed), run.status, *(column[i] for column in columns)]
        for i, run in enumerate(results.runs)
    ]
    heads = [[("variant", 1), ("seed", 1), ("status", 1), *((m.title, 1) for m in results.metrics)]]
    return tex_table(heads, rows, "scores of single runs, with the metric's own standard error")


def cost_tex(results: Results) -> bytes:
    rows = [
        [
            str(row["variant"]),
            f"{row['G_parameters']:,}",
            f"{row['parameters_added']:+,}",
            significant(row["sec_per_kimg"]),
            significant(row["peak_memory_gb"]),
        ]
        for row in cost_rows(results)
    ]
    heads = ["variant", "parameters of G", "added", "s per kimg", "peak memory (GB)"]
    return tex_table([[(text, 1) for text in heads]], rows, "means over runs")


def table_files(results: Results) -> dict[str, bytes]:
    """Contents of tables/ by file name."""
    files = {"metrics.tex": metrics_tex(results), "runs.tex": runs_tex(results), "cost.tex": cost_tex(results)}
    for name, rows in (("metrics", metric_rows(results)), ("runs", run_rows(results)), ("cost", cost_rows(results))):
        files[f"{name}.csv"], files[f"{name}.json"] = as_csv(rows), as_json(rows)
    return files
