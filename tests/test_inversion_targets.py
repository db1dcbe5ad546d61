"""Pictures to invert: their size and colour become the network's, and each of a folder gets a name of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from projecting import picture, png

from noisegan.inversion.targets import read_targets


def test_size_and_colour_become_the_networks(tmp_path: Path) -> None:
    wide = picture(tmp_path / "wide.png", (12, 8))
    (found,) = read_targets(wide, resolution=8, channels=3)
    assert found.changes == "centre 8x8 of 12x8, lanczos to 8x8"
    np.testing.assert_array_equal(found.image.permute(1, 2, 0).numpy(), png(wide)[:, 2:10])
    (found,) = read_targets(picture(tmp_path / "large.jpg", (16, 16)), resolution=8, channels=1)
    assert found.changes == "16x16, lanczos to 8x8, to grey"
    assert found.image.shape == (1, 8, 8)
    clear = np.zeros((8, 8, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    (found,) = read_targets(tmp_path / "clear.png", resolution=8, channels=3)
    assert (found.changes, float(found.image.float().mean())) == ("over white", 255)
    (found,) = read_targets(tmp_path / "clear.png", resolution=8, channels=1)
    assert (found.changes, found.image.shape) == ("over white, to grey", (1, 8, 8))
    (found,) = read_targets(wide.parent / "large.jpg", resolution=16, channels=4)
    assert found.changes == "made opaque"
    picture(tmp_path / "two" / "a.png"), picture(tmp_path / "two" / "a.jpg"), picture(tmp_path / "two" / "b.png")
    (tmp_path / "two" / "notes.txt").write_text("not a picture")
    (tmp_path / "two" / "._a.png").write_text("what macOS leaves beside a.png")
    (tmp_path / "two" / "folder.png").mkdir()
    assert [t.name for t in read_targets(tmp_path / "two", resolution=8, channels=3)] == ["a.jpg", "a.png", "b"]
