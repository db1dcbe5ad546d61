"""Small reports and a reader of their pages: what the tests of the report share.

A file of tests takes the fixture over by assignment: `quick = reporting.quick`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import synthetic_results
from matplotlib.figure import Figure

from noisegan.compare.report import figures, write_report


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


quickly = pytest.mark.usefixtures("quick")
