"""Image grids and noise maps as PNG, one picture element per source pixel or an integer number of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

MOST_ROWS = 5
GAP = 2
SMALL = 72
"""Images are enlarged by a whole number while their side stays within this many pixels."""
LARGE = 256
"""Images with a longer side are reduced by a whole number until they are no larger."""
COLORMAP = "magma"

Array = NDArray[Any]


def columns_for(n: int) -> int:
    """Columns of a grid of n images: a divisor of n where there is one, five at most, so that a phone can show it."""
    return next((c for c in (5, 4, 3) if n % c == 0), min(n, 4))


def rgba(images: Array) -> Array:
    """uint8 [n, C, R, R] with C of 1, 3, 4 -> opaque uint8 [n, R, R, 4]. RGBA goes over white, as extractors see it."""
    x = images.transpose(0, 2, 3, 1)  # [n, R, R, C]
    channels = x.shape[-1]
    if channels == 1:
        x = x.repeat(3, axis=-1)
    elif channels == 4:
        alpha = x[..., 3:].astype(np.float64) / 255
        x = np.rint(x[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    opaque = np.full((*x.shape[:-1], 1), 255, np.uint8)
    return np.concatenate([x, opaque], axis=-1)


def std_to_rgba(maps: Array, top: float) -> Array:
    """Standard deviations [k, R, R] -> uint8 [k, R, R, 4] on a scale from 0 to `top`."""
    colored: Array = colormaps[COLORMAP](np.clip(maps / top, 0, 1), bytes=True)
    return colored


def common_top(maps: list[Array]) -> float:
    """The upper end of one colour scale for all maps: their largest value, 1 where there is no noise at all."""
    return max((float(m.max()) for m in maps), default=0.0) or 1.0


def zoom(resolution: int) -> float:
    """By how much images of this resolution are enlarged (a whole number) or reduced (one over a whole number)."""
    if resolution > LARGE:
        return 1 / -(-resolution // LARGE)
    return max(1, SMALL // resolution)


def grid_png(tiles: Array, columns: int) -> bytes:
    """A PNG of tiles uint8 [n, R, R, 4], row by row, with transparent gaps. Deterministic."""
    factor = zoom(tiles.shape[1])
    if factor >= 1:
        tiles = tiles.repeat(int(factor), axis=1).repeat(int(factor), axis=2)  # nearest neighbour
    else:
        tiles = np.stack([np.asarray(Image.fromarray(tile).reduce(round(1 / factor))) for tile in tiles])
    n, side = len(tiles), tiles.shape[1]
    rows, step = -(-n // columns), side + GAP
    canvas = np.zeros((rows * step - GAP, columns * step - GAP, 4), np.uint8)
    for i, tile in enumerate(tiles):
        top, left = (i // columns) * step, (i % columns) * step
        canvas[top : top + side, left : left + side] = tile
    stream = io.BytesIO()
    Image.fromarray(canvas).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
