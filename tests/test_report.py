"""The report: verdict first, every text escaped, nothing fetched, every digit in its tables, the same bytes again."""

# ruff: noqa: RUF001 (the page's own minus signs and dashes)

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reporting
import synthetic_results
from reporting import Reader, outside, report_of, small

from noisegan.compare.report import figures, tables, write_report
from noisegan.compare.report.results import read_results
from noisegan.errors import NoiseganError

quick = reporting.quick
NASTY = ("additive", "<script>alert(1)</script> & \"q\" 'a'", "100% $x_1^2$ {\\LaTeX} ~#")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole comparison with its report; tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("comparison")
    synthetic_results.make(folder, labels=NASTY, equal_time=True)
    write_report(folder, sections=[("Mine & <yours>", "<p id='own'>trusted <b>words</b></p>")])
    return folder


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Reader:
    return Reader(html)


def test_verdict_comes_before_any_table(folder: Path, html: str, page: Reader) -> None:
    results = read_results(folder / "results.json")
    body = html[html.index("<body>") :]
    assert body.index('class="lead"') < body.index("<table") < body.index("<svg", body.index("<table"))
    assert page.text.index(results.verdict) < page.text.index("Means over replicates")
    sections = [attrs["id"] for attrs in page.of("section")]
    order = "verdict scores curves images noise cost options provenance reproduce section-1"
    assert sections == order.split()
    for c in results.comparisons:
        if c.metric == results.metrics[0].key:
            assert c.sentence in page.text


def test_nothing_is_fetched_and_nothing_runs(page: Reader) -> None:
    assert outside(page) == []
    assert page.of("script") == []
    assert not [k for _, attrs in page.tags for k in attrs if k.startswith("on")]
    policy = next(m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@pytest.mark.parametrize(
    "bad",
    [
        "<img src='https://x.org/a.png'>",
        "<link href='//x.org/a.css'>",
        "<style>@import 'x.css';</style>",
        "<p style='background: url(https://x.org/a)'></p>",
        "<svg><rect fill='url(other.svg#a)'/></svg>",
    ],
)
def test_the_check_for_addresses_bites(bad: str) -> None:
    assert outside(Reader(bad))


def test_labels_are_escaped_and_readable(html: str, page: Reader) -> None:
    for label in NASTY:
        assert page.text.count(label) > 5
    assert "<script" not in html
    assert "Mine & <yours>" in page.text
    assert "<p id='own'>trusted <b>words</b></p>" in html  # of a plugin: as it is


def test_identifiers_are_unique_and_anchors_lead_somewhere(page: Reader) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 100
    used = [
        v[1:] for _, attrs in page.tags for k, v in attrs.items() if k in ("href", "xlink:href") and v and v[0] == "#"
    ]
    used += [name for _, a in page.tags for v in a.values() for name in re.findall(r"url\(#([^)]*)\)", v or "")]
    assert len(used) > 50
    assert set(used) <= set(ids)


def test_tables_and_images_say_what_they_are(page: Reader) -> None:
    assert len(page.of("table")) == len(page.of("caption")) >= 6
    assert page.of("th")
    assert all(attrs.get("scope") in ("col", "row", "colgroup") for attrs in page.of("th"))
    assert page.of("img")
    assert all(attrs["alt"] for attrs in page.of("img"))
    assert all(a["aria-label"] for _, a in page.tags if a.get("role") in ("img", "region"))


def test_each_extractor_stands_in_the_title_of_its_columns(folder: Path, page: Reader) -> None:
    results = read_results(folder / "results.json")
    groups = [attrs for attrs in page.of("th") if attrs.get("scope") == "colgroup"]
    assert len(groups) == 2 * len(results.metrics)  # the scores, and those at equal time
    for metric in results.metrics:
        assert metric.extractor in metric.title
        assert page.text.count(metric.title) >= 4
    for name, rows in (("metrics", tables.metric_rows(results)), ("runs", tables.run_rows(results))):
        keys = {m.key for m in results.metrics}
        assert rows, name
        assert {column.split()[0] for column in rows[0] if "@" in column} == keys


def test_colours_of_figures_follow_the_page(html: str, page: Reader) -> None:
    for variable in (*figures.THEME.values(), "--l0", "--l6"):
        assert len(re.findall(rf"{variable}: #", page.styles)) == 2, variable  # light and dark
    for variable in ("--ink", "--muted", "--rule", "--paper", "--s0", "--s1", "--s2", "--l0", "--l6"):
        assert re.search(rf"<path [^>]*var\({variable}\)", html), variable
    drawn = html[html.index("<main") :]
    assert not re.search("|".join(rf"(fill|stroke): {color}" for color in figures.THEME), drawn)


def test_same_results_same_bytes_in_another_process(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        small(tmp_path / name, labels=NASTY[:2], noises=("fuzzy", "none"), seeds=(1, 2))
    code = "import sys, pathlib, noisegan.compare.report as r; r.write_report(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True)
    report_of(tmp_path / "here")
    first, second = (
        {p.relative_to(f): p.read_bytes() for p in (f / "report").rglob("*.*")}
        for f in (tmp_path / "here", tmp_path / "there")
    )
    assert first.keys() == second.keys()
    assert {path.suffix for path in first} == {".html", ".svg", ".png", ".csv", ".json", ".tex"}
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.usefixtures("quick")
def test_a_stop_leaves_the_old_report(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path)
    before = write_report(tmp_path).read_bytes()
    results = json.loads((tmp_path / "results.json").read_text())
    synthetic_results.save(tmp_path, results | {"verdict": "Another verdict."})

    def stop(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("noisegan.compare.report.table_files", stop)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path)
    assert (tmp_path / "report" / "index.html").read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_tables_hold_every_digit(folder: Path) -> None:
    raw = json.loads((folder / "results.json").read_text())
    place = folder / "report" / "tables"
    for name in ("metrics", "runs", "cost"):
        rows = json.loads((place / f"{name}.json").read_text())
        lines = list(csv.DictReader(io.StringIO((place / f"{name}.csv").read_text(), newline="")))
        assert rows
        assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows] == lines
    by = {row["variant"]: row for row in json.loads((place / "metrics.json").read_text())}
    for s in raw["summary"]:
        row = by[s["variant"]]
        assert [row[f"{s['metric']} {k}"] for k in ("n", "mean", "std")] == [s["n"], s["mean"], s["std"]]
        assert [row[f"{s['metric']} {k}"] for k in ("low", "high")] == s["interval"]
    for c in raw["comparisons"]:
        row = by[c["variant"]]
        assert row[f"{c['metric']} difference"] == c["mean_difference"]
        assert row[f"{c['metric']} p_holm"] == c["p_holm"]
        assert row[f"{c['metric']} verdict"] == c["verdict"]
    runs = json.loads((place / "runs.json").read_text())
    for row, run in zip(runs, raw["runs"], strict=True):
        assert (row["variant"], row["seed"]) == (run["variant"], run["seed"])
        assert all(row[f"{key} value"] == score["value"] for key, score in run["scores"].items())


def cells(row: str) -> int:
    """Columns that a row of a tabular fills."""
    spans = [int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row)]
    return len(re.findall(r"(?<!\\)&", row)) + 1 + sum(spans)


@pytest.mark.parametrize("name", ["metrics", "runs", "cost"])
def test_latex_is_balanced_and_escaped(folder: Path, name: str) -> None:
    text = (folder / "report" / "tables" / f"{name}.tex").read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", body)
    assert columns
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) > 3
    assert {cells(row) for row in rows} == {len(columns[1])}
    assert len(re.findall(r"(?<!\\)\{", body)) == len(re.findall(r"(?<!\\)\}", body))
    assert not re.search(r"(?<!\\)[#%_]", body)
    assert "<" not in body
    assert r"100\% \$x\_1\textasciicircum{}2\$ \{\textbackslash{}LaTeX\} \textasciitilde{}\#" in body


def test_latex_row_that_begins_with_a_bracket_is_no_argument() -> None:
    table = tables.tex_table([[("a", 1), ("b", 1)]], [["[1]", "*"], ["line\nend", "−1"]], "c").decode()
    assert "{}[1] & * " in table
    assert "{}line end & $-$1 " in table


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda r: r | {"schema_version": 2},
            "has schema_version 2, this noisegan reads version 1; use the noisegan that",
        ),
        (
            lambda r: r | {"schema": "other"},
            r"is not the result of a comparison \(schema 'noisegan-results' is missing\)",
        ),
        (lambda r: [r], "is not the result of a comparison"),
        (
            lambda r: {k: v for k, v in r.items() if k != "verdict"},
            "is damaged: verdict: field required; run `noisegan",
        ),
        (lambda r: r | {"runs": [{"variant": "additive"}]}, r"is damaged: runs\.0\.seed: field required"),
        (lambda r: r | {"variants": r["variants"][1:]}, "is damaged: variant 'additive' is listed 0 times"),
        (lambda r: r | {"variants": r["variants"] * 2}, "is damaged: variant 'additive' is listed 2 times"),
        (lambda r: r | {"metrics": r["metrics"] * 2}, "is damaged: .* 2 times"),
        (lambda r: r | {"metrics": [m | {"primary": False} for m in r["metrics"]]}, "it needs one primary metric"),
    ],
)
def test_wrong_results_are_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, change: Callable[[Any], Any], sentence: str
) -> None:
    results = json.loads((folder / "results.json").read_text())
    place = tmp_path_factory.mktemp("wrong")
    results["experiment"]["baseline"] = "additive"
    synthetic_results.save(place, change(results))
    with pytest.raises(NoiseganError, match=rf"results\.json .*{sentence}") as caught:
        write_report(place)
    assert "\n" not in str(caught.value)
    assert not (place / "report").exists()
