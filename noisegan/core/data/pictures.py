"""One picture file, by way of Pillow: what it is (its header) and its pixels as 8-bit grey, RGB or RGBA.

Pixels are taken as stored: the EXIF orientation is not applied, colour profiles are not converted, and of an animation
only the first frame is read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from noisegan.core.data.source import Header, Pixels
from noisegan.errors import NoiseganError

SUFFIXES = {
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".png": "PNG",
    ".pnm": "PPM",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""File suffixes that are taken for pictures, and the only formats that are tried: others (EPS) run programs."""

KNOWN = "png, jpg, webp, bmp, gif, tiff, ppm, avif"
"""The same list, for messages."""

MODES = {
    "1": "L",
    "L": "L",
    "LA": "RGBA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "PA": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
}
"""Pillow's modes and the ones they are read as; `P` becomes RGBA or RGB, with or without transparency."""

CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


def read_header(handle: BinaryIO, where: str) -> Header:
    """Size and channels of a picture, without decoding it.

    Raises:
        NoiseganError: naming `where`, when it is no picture, has 16 bits per channel, or a mode that is not read.
    """
    with _named(where), Image.open(handle, formats=_formats()) as image:
        return Header(image.width, image.height, CHANNELS[_target_mode(image, where)])


def read_pixels(handle: BinaryIO, where: str) -> Pixels:
    """The picture, [H, W, C] uint8 with C = 1 (grey), 3 (RGB) or 4 (RGBA).

    Raises:
        NoiseganError: as `read_header`, and when the picture is corrupt or cut short.
    """
    with _named(where), Image.open(io.BytesIO(handle.read()), formats=_formats()) as image:  # a zip checks its CRC
        mode = _target_mode(image, where)
        image.load()
        pixels = np.asarray(image if image.mode == mode else image.convert(mode), dtype=np.uint8)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels  # [H, W, C]


def to_image(pixels: Pixels) -> Image.Image:
    """Pixels [H, W, C] uint8 as Pillow's L, RGB or RGBA."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _target_mode(image: Image.Image, where: str) -> str:
    raw_modes = " ".join(
        str(tile[3]) for tile in getattr(image, "tile", ())
    )  # Pillow reads 16-bit RGB as 8-bit RGB without a word
    if image.mode in ("I", "F") or image.mode.startswith("I;") or (image.format != "BMP" and ";16" in raw_modes):
        depth = "floating-point" if image.mode == "F" else "16-bit"
        raise NoiseganError(f"{where} is a {depth} image; only 8 bits per channel are read: convert it to 8 bits")
    if image.mode == "P":
        return "RGBA" if "transparency" in image.info else "RGB"
    if image.mode not in MODES:
        raise NoiseganError(f"{where} has the colour mode {image.mode}; grey, RGB and RGBA are read: convert it")
    return MODES[image.mode]


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    Image.init()
    return sorted(set(SUFFIXES.values()) & set(Image.OPEN))


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Whatever a decoder raises (OSError, SyntaxError, zlib.error, BadZipFile ...) becomes an error naming the file."""
    try:
        yield
    except (NoiseganError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise NoiseganError(
            f"{where} cannot be read: it is empty, cut short or no image ({KNOWN} are read); replace or remove it"
        ) from error
    except Exception as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise NoiseganError(f"{where} cannot be read: {reason}; replace or remove it") from error
