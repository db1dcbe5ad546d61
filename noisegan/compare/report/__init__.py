"""The report of a comparison: results.json in, one self-contained HTML page with figures and tables beside it out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noisegan.compare.report.page import Page
from noisegan.compare.report.results import read_results
from noisegan.compare.report.tables import table_files
from noisegan.files import atomic_path, unwritable

__all__ = ["write_report"]


def write_report(folder: Path, *, sections: Sequence[tuple[str, str]] = ()) -> Path:
    """Write `<folder>/report/` from `<folder>/results.json` and the arrays that its runs name.

    It leaves index.html, which needs no other file, no network and no script; figures/ (SVG, PNG) and tables/ (CSV,
    JSON, LaTeX). The same results give the same bytes. Every file is replaced as a whole, index.html last, after
    everything has been made in memory: whenever this is stopped, what lies there is a whole report.

    Args:
        folder: of a comparison, as `noisegan compare --outdir` leaves it.
        sections: (title, HTML) of plugins, shown at the end. The HTML is trusted and goes in as it is; the page's
            content security policy keeps it from running scripts and from fetching anything.

    Returns:
        The path of index.html.

    Raises:
        NoiseganError: when results.json or an array is missing, damaged or of another version, or when the report
            cannot be written.
    """
    results = read_results(folder / "results.json")
    page = Page(folder, results, sections)
    html = page.html()
    report = folder / "report"
    contents = {report / "figures" / name: content for name, content in page.figures.items()}
    contents |= {report / "tables" / name: content for name, content in table_files(results).items()}
    contents[report / "index.html"] = html.encode()
    for path, content in contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path.parent, error) from error
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return report / "index.html"
