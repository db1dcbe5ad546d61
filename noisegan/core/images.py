"""Images as files: tensors to bytes, grids, PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from noisegan.files import atomic_path

GRID_PIXELS = 2048
"""A sample grid is at most about this wide and high."""


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] float to 0..255 uint8 of the same shape: img * 127.5 + 128, clamped."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """0..255 uint8 to [-1, 1] float32 of the same shape."""
    return images.to(torch.float32) / 127.5 - 1


def grid_size(resolution: int) -> int:
    """Rows and columns of a square sample grid: 8, fewer for large images."""
    return max(2, min(8, GRID_PIXELS // resolution))


def make_grid(images: Tensor, columns: int) -> Tensor:
    """[N, C, H, W] -> [C, rows H, columns W]; missing images of the last row are zero."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    full = images.new_zeros(rows * columns, c, h, w)
    full[:n] = images
    return full.view(rows, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w)


def save_image(image: Tensor, path: str | Path) -> None:
    """Write [C, H, W] uint8, 1, 3 or 4 channels, as PNG.

    Raises:
        NoiseganError: when the file cannot be written.
    """
    array = image.permute(1, 2, 0).contiguous().cpu().numpy()  # [H, W, C]
    picture = Image.fromarray(np.squeeze(array, axis=2) if array.shape[2] == 1 else array)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
