"""examples/geometry_picture.py runs as it stands and draws what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).parents[1] / "examples" / "geometry_picture.py"


def test_the_picture_shows_four_spaces(tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    done = subprocess.run([sys.executable, SCRIPT, out], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    with Image.open(out) as image:
        assert image.size == (1650, 462)
        panels = [image.convert("RGB").crop((i * 412, 40, (i + 1) * 412, 462)) for i in range(4)]
    for panel in panels:  # three colours of noise in each
        for colour in ((27, 108, 168), (200, 85, 61), (58, 125, 68)):
            close = sum(
                count for count, pixel in panel.getcolors(412 * 422)  # type: ignore[union-attr]
                if sum(abs(a - b) for a, b in zip(pixel, colour, strict=True)) < 60  # type: ignore[arg-type]
            )  # fmt: skip
            assert close > 100, colour
