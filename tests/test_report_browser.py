"""The report in a real browser: no error, no request, no overflow on a phone. Skipped where there is no Chromium.

Chromium is spoken to over two pipes (its DevTools protocol, one JSON message per NUL byte), so no driver is needed.
Screenshots are left in the test's temporary folder, or in $NOISEGAN_SCREENSHOTS.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import synthetic_inversions
import synthetic_results

from noisegan.compare.report import write_report
from noisegan.compare.report.inversion import inversion_section

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
PATIENCE_S = 60
LONG = "fuzzy(alpha=0.3) + additive(per_channel=true), a label_that_has_no_place_to_break_whatever_one_does_about_it"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser, google-chrome or chrome on PATH"),
]


class Tab:
    """One page of a browser. `events` holds all that it has reported."""

    def __init__(self, write: int, read: int) -> None:
        self.write, self.read, self.buffer, self.last, self.session = write, read, b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.last:
            self.events.append(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"the browser said nothing for {PATIENCE_S} s"
            chunk = os.read(self.read, 1 << 20)
            assert chunk, "the browser is gone"
            self.buffer += chunk
        text, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(text))

    def of(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]

    def open(self, url: str, width: int, scheme: str = "light") -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self("Page.navigate", url=url)
        while not self.of("Page.loadEventFired"):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path) -> None:
        shot = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    # the shell gives the pipes the numbers 3 and 4, where Chromium looks for them
    command = f'exec "$0" "$@" 3<&{to_read} 4>&{from_write}'
    assert CHROMIUM is not None
    process = subprocess.Popen(
        ["bash", "-c", command, CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(to_read, from_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    try:
        tab = Tab(to_write, from_read)
        yield tab
        tab.session = ""
        tab("Browser.close")
    finally:
        os.close(to_write)
        os.close(from_read)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hardest case for the layout: six variants, long labels, failed runs, large images, every section."""
    folder = tmp_path_factory.mktemp("comparison")
    labels = ("additive", "fuzzy", "none", LONG, "<b>additive</b> & $x_1$", "additive + fuzzy")
    results = synthetic_results.make(
        folder, labels=labels, failed=((1, 2), (4, 1)), channels=3, resolution=128, equal_time=True
    )
    results["pairing"] |= {"paired": False, "problems": ["fuzzy, seed 2: there is no certificate"]}
    synthetic_results.save(folder, results)
    inversion = inversion_section(folder, synthetic_inversions.make(results), results)
    return write_report(folder, sections=[inversion, ("From a plugin", "<p>Its own words.</p>")])


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("NOISEGAN_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_is_silent_and_fetches_nothing(tab: Tab, report: Path, shots: Path, width: int, scheme: str) -> None:
    tab.open(report.as_uri(), width, scheme)
    assert tab.value("innerWidth") == width
    tab.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), too_wide(tab)
    tab.screenshot(shots / f"report-{width}-{scheme}.png")
    assert tab.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert requests(tab) == [report.as_uri()]
    assert complaints(tab) == []


def test_dark_scheme_changes_paper_and_figures(tab: Tab, report: Path) -> None:
    seen = []
    for scheme in ("light", "dark"):
        tab.open(report.as_uri(), 1280, scheme)
        tick = "getComputedStyle(document.querySelector('.plot svg text')).fill"
        seen.append((tab.value("getComputedStyle(document.body).backgroundColor"), tab.value(tick)))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


def test_these_checks_bite(tab: Tab, tmp_path: Path) -> None:
    """A page with a request, an error and too wide a block is caught by all three."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'><script>console.error('x')</script>"
        "<img src='other.png'><div style='width: 900px'>wide</div>"
    )
    tab.open(page.as_uri(), 390)
    assert tab.value("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert (tmp_path / "other.png").as_uri() in requests(tab)
    assert complaints(tab)


def test_a_careless_plugin_cannot_fetch(tab: Tab, tmp_path: Path) -> None:
    synthetic_results.make(tmp_path, labels=("additive", "fuzzy"), seeds=(1, 2))
    (tmp_path / "other.png").write_bytes(b"")
    html = "<img src='../other.png'><script>document.title = 'ran'</script>"
    page = write_report(tmp_path, sections=[("Careless", html)])
    tab.open(page.as_uri(), 1280)
    blocked = [r["requestId"] for r in tab.of("Network.loadingFailed") if r.get("blockedReason") == "csp"]
    sent = [r for r in tab.of("Network.requestWillBeSent") if "other.png" in r["request"]["url"]]
    assert all(r["requestId"] in blocked for r in sent)
    assert tab.value("document.title") != "ran"


def requests(tab: Tab) -> list[str]:
    urls = [event["request"]["url"] for event in tab.of("Network.requestWillBeSent")]
    return [url for url in urls if not url.startswith("data:")]


def complaints(tab: Tab) -> list[Any]:
    logged = [e["entry"] for e in tab.of("Log.entryAdded") if e["entry"]["level"] in ("warning", "error")]
    called = [e for e in tab.of("Runtime.consoleAPICalled") if e["type"] in ("warning", "error")]
    return logged + called + tab.of("Runtime.exceptionThrown")


def too_wide(tab: Tab) -> Any:
    """For the message of a failed test: the elements that stick out."""
    return tab.value(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && "
        "e.getBoundingClientRect().right > innerWidth).slice(0, 8).map(e => e.outerHTML.slice(0, 160)).join('\\n')"
    )
