"""The script that draws the pages' pictures runs, and no page waits for a picture."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner
from training import SMALL

import noisegan
from noisegan.manager import Plugins

DOCS = Path(__file__).parent.parent / "docs"
NAMES = sorted(Plugins(entry_points=False).strategies)
DRAWN = ("none", "warp", "instance", "filtering", "roth")


@pytest.mark.slow
def test_the_script_draws(tmp_path: Path) -> None:
    options = SMALL | {"resolution": 16, "resize": "bicubic", "kimg": 0.008, "tick": 0.008, "noise": "none"}
    run = noisegan.train(**options, outdir=tmp_path, quiet=True)
    script = runpy.run_path(str(DOCS / "strategies" / "pictures.py"))["main"]
    words = ["--network", str(run), "--outdir", str(tmp_path)]
    result = CliRunner().invoke(script, [*words, *(word for name in DRAWN for word in ("--only", name))])
    assert result.exit_code == 0, result.output
    for name in DRAWN:
        assert (tmp_path / f"strategy-{name}.png").stat().st_size > 5000


@pytest.mark.parametrize("name", NAMES)
def test_each_strategy_has_a_page_and_its_picture(name: str) -> None:
    page = (DOCS / "strategies" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}: ")
    pictures = re.findall(r"!\[[^\]]+\]\(\.\./images/([^)]+)\)", page)
    assert pictures
    assert "When to use it" in page
    for picture in pictures:
        assert (DOCS / "images" / picture).is_file()
