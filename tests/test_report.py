"""The report: verdict first, every text escaped, nothing fetched, the same bytes again, and what it does with less."""

# ruff: noqa: RUF001 (the page's own minus signs and dashes)

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_results
from matplotlib.figure import Figure
from PIL import Image

from noisegan.compare.report import figures, grids, numbers, tables, write_report
from noisegan.compare.report.results import load_array, read_results
from noisegan.errors import NoiseganError

NASTY = ("additive", "<script>alert(1)</script> & \"q\" 'a'", "100% $x_1^2$ {\\LaTeX} ~#")


class Reader(HTMLParser):
    """Tags with their attributes, the text outside style, and whether every element was closed in order."""

    VOID = ("meta", "link", "img", "br", "hr", "line", "path", "use", "rect", "image", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.styles, self.open = "", "", list[str]()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.styles += data
        else:
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for t, attrs in self.tags if t == tag]


def outside(page: Reader) -> list[str]:
    """Addresses that a browser would follow by itself, or on a click, to anywhere but this page."""
    found = [v for _, attrs in page.tags for k, v in attrs.items() if k in LINKS and v is not None]
    styles = page.styles + "".join(attrs.get("style") or "" for _, attrs in page.tags)
    found += [url.strip("\"' ") for url in re.findall(r"url\(([^)]*)\)", styles)]
    found += [
        url.strip("\"' ") for _, a in page.tags for v in a.values() for url in re.findall(r"url\(([^)]*)\)", v or "")
    ]
    return [url for url in found if not url.startswith(("#", "data:"))] + re.findall("@import.*", styles)


LINKS = ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background", "formaction")


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


def small(folder: Path, **options: Any) -> dict[str, Any]:
    """A comparison with one metric: quicker to draw."""
    results = synthetic_results.make(folder, **({"labels": ("additive", "fuzzy"), "n_images": 4} | options))
    key = results["metrics"][0]["key"]
    results["metrics"] = results["metrics"][:1]
    for table in ("summary", "comparisons"):
        results[table] = [row for row in results[table] if row["metric"] == key]
    synthetic_results.save(folder, results)
    return results


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn but not rendered, which takes most of the time of a report."""

    def render(name: str, size: Any, draw: Callable[[Any], None], legend: Any) -> figures.Drawing:
        draw(Figure(figsize=size).subplots())
        return figures.Drawing(b"", b"", f"<svg id='{name}'></svg>")

    monkeypatch.setattr(figures, "_render", render)


def report_of(folder: Path) -> tuple[str, Reader]:
    html = write_report(folder).read_text()
    page = Reader(html)
    assert outside(page) == []
    return html, page


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


# Less than everything.

quickly = pytest.mark.usefixtures("quick")


@quickly
def test_one_replicate_has_no_interval_and_says_so(tmp_path: Path) -> None:
    small(tmp_path, seeds=(7,))
    html, page = report_of(tmp_path)
    assert "One replicate only" in page.text
    assert "no intervals and no tests" in page.text
    scores = html[html.index('<table class="scores') : html.index("</table>")]
    assert "[" not in scores.partition("<tbody>")[2]
    assert "bands:" not in page.text


@quickly
def test_failed_runs_are_named_with_their_reason(tmp_path: Path) -> None:
    small(tmp_path, labels=("additive", "fuzzy", "both"), failed=((1, 1), (2, 1), (2, 2)), seeds=(1, 2))
    html, page = report_of(tmp_path)
    assert "3 of 6 runs failed" in page.text
    assert "fuzzy, seed 1: the loss is not a number after 3,200 images" in page.text
    assert "training seed 2" in page.text  # the first that most have finished
    assert "no run of both with this seed has finished" in page.text
    assert html.count("✗ failed") == 3


def test_all_runs_failed(tmp_path: Path) -> None:
    small(tmp_path, failed=((0, 1), (1, 1)), seeds=(1,))
    _, page = report_of(tmp_path)
    assert "2 of 2 runs failed" in page.text
    assert "No snapshot was scored on the way." in page.text
    assert page.of("img") == []


@quickly
def test_warnings_of_pairing_and_selection(tmp_path: Path) -> None:
    results = small(tmp_path, seeds=(1, 2))
    assert 'class="warnings"' not in write_report(tmp_path).read_text()
    results["pairing"] |= {"paired": False, "problems": ["seed 2: another order of images"]}
    results["experiment"]["selection"] = "best"
    results["config"]["differing"]["lr"] = {"additive": 0.002, "fuzzy": 0.001}
    synthetic_results.save(tmp_path, results)
    _, page = report_of(tmp_path)
    assert "The runs are not paired" in page.text
    assert "seed 2: another order of images" in page.text
    assert "they are too good" in page.text
    assert "Options differ that the experiment does not allow to differ" in page.text
    results["config"]["allowed"] = ["lr"]
    synthetic_results.save(tmp_path, results)
    _, page = report_of(tmp_path)
    assert "differ only in noise and in what the experiment lets differ: lr." in page.text


@quickly
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_hold_the_samples_pixel_by_pixel(tmp_path: Path, channels: int) -> None:
    small(tmp_path, channels=channels, resolution=24, seeds=(1,))
    report_of(tmp_path)
    run = read_results(tmp_path / "results.json").runs[0]
    samples = load_array(tmp_path, run, "samples", 4)
    assert samples is not None
    slug = run.files["samples"].split("/")[1].removesuffix("-seed1")
    picture = np.asarray(Image.open(tmp_path / "report" / "figures" / f"samples-{slug}.png"))
    for i in range(4):  # a row of four, each enlarged three times
        tile = picture[:, i * 74 : i * 74 + 72]
        assert (tile == tile[::3, ::3].repeat(3, 0).repeat(3, 1)).all()
        expected = samples[i].astype(float)  # [C, R, R]
        if channels == 4:
            expected = expected[:3] * expected[3:] / 255 + 255 - expected[3:]
        assert np.abs(tile[::3, ::3, :3].transpose(2, 0, 1) - expected).max() <= 0.5


@quickly
def test_no_noise_at_all(tmp_path: Path) -> None:
    results = small(tmp_path, labels=("a", "b"), noises=("none", "none"), seeds=(1, 2))
    _, page = report_of(tmp_path)
    assert "No variant put noise into feature maps" in page.text
    assert results["runs"][0]["noise_std"] == 0
    assert "mean 0;" in page.text


@quickly
def test_variant_without_noise_beside_one_with_gaps(tmp_path: Path) -> None:
    results = small(tmp_path, labels=("a", "b"), noises=("none", "fuzzy"), seeds=(1, 2))
    strength = results["runs"][2]["noise"]["strength"]
    strength["b4.conv1/fuzzy"][3] = None
    strength["b8.conv0/fuzzy"] = [None] * 20
    synthetic_results.save(tmp_path, results)
    _, page = report_of(tmp_path)
    assert page.text.count("No noise in the feature maps") == 1
    assert (tmp_path / "report" / "figures" / "noise-v1-b.svg").is_file()


@quickly
def test_missing_arrays_are_said_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    results = small(tmp_path, seeds=(1, 2))
    file = tmp_path / results["runs"][0]["files"]["samples"]
    file.unlink()
    _, page = report_of(tmp_path)
    assert "no run of additive with this seed has finished, or its files are gone" in page.text
    for content in (
        b"",
        b"not numpy",
        npy(np.zeros((2, 3), np.uint8)),
        npy(np.zeros((2, 1, 8, 8))),
        npy(np.array([{}])),
    ):
        file.write_bytes(content)
        with pytest.raises(NoiseganError, match=r"samples\.npy is damaged: .*run `noisegan compare` again"):
            write_report(tmp_path)


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@quickly
def test_metric_without_errors_curves_or_times(tmp_path: Path) -> None:
    results = small(tmp_path, seeds=(1, 2))
    for run in results["runs"]:
        run["curve"] = []
        for score in run["scores"].values():
            score["std_error"] = None
    results["timing"] = {"finished": None, "runs": []}
    synthetic_results.save(tmp_path, results)
    _, page = report_of(tmp_path)
    assert "±" not in page.text.replace("± is the metric", "")
    assert "No snapshot was scored" in page.text


@quickly
def test_a_comparison_of_one(tmp_path: Path) -> None:
    small(tmp_path, labels=("additive",), seeds=(1, 2))
    _, page = report_of(tmp_path)
    assert "1 variant × 2 replicates" in page.text


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


def test_no_results_or_half_of_them(tmp_path: Path) -> None:
    with pytest.raises(
        NoiseganError, match=r"there is no results\.json in .*: give the folder of a finished comparison"
    ):
        write_report(tmp_path)
    for content in (b'{"schema": "noise', b"\xff\xfe\x00"):
        (tmp_path / "results.json").write_bytes(content)
        with pytest.raises(NoiseganError, match="is damaged, it is no JSON; run `noisegan compare` again"):
            write_report(tmp_path)


@quickly
def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    small(tmp_path, seeds=(1,))
    (tmp_path / "report").write_text("")
    with pytest.raises(NoiseganError, match=r"cannot write .*report"):
        write_report(tmp_path)


# The parts.


@pytest.mark.parametrize(
    ("uncertainties", "values", "decimals"),
    [([0.66], [40.0], 2), ([1.2, 0.3], [], 2), ([12.0], [], 0), ([340.0], [], 0), ([9.1e-5], [], 6), ([1e-30], [], 8),
     ([0.0, None], [41.234], 2), ([], [0.0042], 6), ([], [], 2), ([float("inf")], [1.0], 3)],
)  # fmt: skip
def test_decimals_follow_the_uncertainty(uncertainties: list[float | None], values: list[float], decimals: int) -> None:
    assert numbers.decimals_for(uncertainties, values) == decimals


def test_numbers_as_people_read_them() -> None:
    assert numbers.fixed(-1234.5678, 2) == "−1,234.57"
    assert numbers.fixed(-0.001, 2, sign=True) == "0.00"
    assert numbers.fixed(0.5, 1, sign=True) == "+0.5"
    assert numbers.fixed(None, 1) == numbers.fixed(float("nan"), 1) == "–"
    assert numbers.interval_text((-1.0, 2.0), 1, sign=True) == "[−1.0, +2.0]"
    assert [numbers.p_text(p) for p in (0.0004, 0.0312, 1.0, None)] == ["< 0.001", "0.031", "1.000", "–"]
    assert [numbers.significant(x) for x in (0.0, 0.012345, 123.4, 2e-9)] == ["0", "0.0123", "123", "2.00e−9"]
    assert [numbers.percent(p) for p in (0.95, 1 - 0.05, 0.999)] == ["95 %", "95 %", "99.9 %"]
    assert [numbers.duration(s) for s in (0.25, 48.2, 200, 7500, None)] == [
        "0.25 s", "48 s", "3 min 20 s", "2 h 05 min", "–"
    ]  # fmt: skip


def test_rounding_keeps_two_digits_of_any_uncertainty() -> None:
    for u in 10 ** np.random.default_rng(0).uniform(-6, 3, 200):
        shown = float(numbers.fixed(u, numbers.decimals_for([u])).replace(",", ""))
        assert abs(shown - u) <= 0.05 * u


def test_seven_looks_differ_in_colour_and_more_in_dashes() -> None:
    looks = figures.looks([str(i) for i in range(20)])
    assert len({look.color for look in looks[:7]}) == 7
    assert all(a.dashes != b.dashes for a, b in itertools.pairwise(looks))
    assert len({(look.color, look.dashes) for look in looks}) == 20


def test_maps_share_one_scale() -> None:
    weak, strong = np.full((1, 2, 2), 0.1), np.full((1, 2, 2), 0.4)
    assert grids.common_top([weak, strong]) == 0.4
    assert grids.common_top([0 * weak]) == grids.common_top([]) == 1
    assert (grids.std_to_rgba(weak, 0.4) == grids.std_to_rgba(2 * weak, 0.8)).all()
    assert (grids.std_to_rgba(weak, 0.4) != grids.std_to_rgba(strong, 0.4)).any()


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (4, 4), (7, 4), (9, 3), (16, 4), (25, 5), (64, 4)])
def test_columns(n: int, columns: int) -> None:
    assert grids.columns_for(n) == columns


@pytest.mark.parametrize(("resolution", "side"), [(8, 72), (28, 56), (72, 72), (256, 256), (512, 256), (1024, 256)])
def test_images_are_scaled_by_whole_numbers(resolution: int, side: int) -> None:
    tiles = grids.rgba(np.zeros((3, 1, resolution, resolution), np.uint8))
    assert grids.png_size(grids.grid_png(tiles, 2)) == (2 * side + grids.GAP, 2 * side + grids.GAP)
