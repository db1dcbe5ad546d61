"""How an image becomes a square of the wanted resolution: chosen by the user, recorded, never silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from noisegan.core.data.pictures import to_image
from noisegan.core.data.source import Header, Pixels, Source
from noisegan.errors import NoiseganError

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}
RESIZES = (*FILTERS, "pad")
CROPS = ("center",)
RESOLUTIONS = (8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Fit:
    """Crop, then resize, to `resolution`. `resize` and `crop` are None where nothing of the kind is done."""

    resolution: int
    resize: str | None
    crop: str | None

    def __call__(self, pixels: Pixels) -> Pixels:
        """[H, W, C] uint8 -> [R, R, C] uint8."""
        height, width, channels = pixels.shape
        if self.crop is not None and height != width:
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            pixels = pixels[top : top + side, left : left + side]
            height = width = side
        if height == width == self.resolution:
            return pixels
        if self.resize == "pad":
            margin = (self.resolution - height) // 2
            canvas = np.zeros((self.resolution, self.resolution, channels), np.uint8)
            canvas[margin : margin + height, margin : margin + width] = pixels
            return canvas
        assert self.resize is not None
        image = to_image(np.ascontiguousarray(pixels))
        resized = image.resize((self.resolution, self.resolution), FILTERS[self.resize])
        return np.asarray(resized, np.uint8).reshape(self.resolution, self.resolution, channels)


def choose_fit(
    source: Source, headers: Sequence[Header], resolution: int | None, resize: str | None, crop: str | None
) -> Fit:
    """The fit that the user's choices make for these images.

    Raises:
        NoiseganError: when the images do not all become `resolution` x `resolution` by what was chosen.
    """
    _check_choices(resolution, resize, crop)
    odd = next((i for i, header in enumerate(headers) if header[:2] != headers[0][:2]), None)
    if odd is not None:
        if crop is None or resize not in FILTERS:
            raise NoiseganError(
                f"images differ in size: {source.item(0)} is {headers[0].size}, {source.item(odd)} is "
                f"{headers[odd].size}; --crop center --resize lanczos would make them equal (with --resolution)"
            )
        if resolution is None:
            raise NoiseganError(
                f"images of {source.name} differ in size, so there is no size of their own to keep; say which with "
                "--resolution"
            )
        return Fit(resolution, resize, crop)

    first = headers[0]
    if crop is None and first.width != first.height:
        raise NoiseganError(
            f"images of {source.name} are {first.size}, not square; --crop center takes the largest centred square"
        )
    side = min(first.width, first.height)
    if resolution is None:
        if side not in RESOLUTIONS:
            raise NoiseganError(
                f"images of {source.name} are {side}x{side}; a generator needs one of "
                f"{', '.join(map(str, RESOLUTIONS))}: choose with --resolution and --resize ({', '.join(RESIZES)})"
            )
        return Fit(side, resize, crop)
    if side == resolution:
        return Fit(resolution, resize, crop)
    resize = resize or (source.default_resize if source.default_resize != "pad" or side < resolution else None)
    if resize is None:
        raise NoiseganError(
            f"images of {source.name} are {side}x{side}, wanted is {resolution}x{resolution}; choose how with "
            f"--resize ({', '.join(RESIZES)}), or give the --resolution they have"
        )
    if resize == "pad" and side > resolution:
        raise NoiseganError(
            f"--resize pad only enlarges: images of {source.name} are {side}x{side}, wanted is "
            f"{resolution}x{resolution}; choose {', '.join(FILTERS)}"
        )
    return Fit(resolution, resize, crop)


def check_channels(source: Source, headers: Sequence[Header]) -> int:
    """The channels that all images have: 1, 3 or 4.

    Raises:
        NoiseganError: naming the first two images that differ.
    """
    kinds = {1: "grey", 3: "RGB", 4: "RGBA"}
    first = headers[0].channels
    odd = next((i for i, header in enumerate(headers) if header.channels != first), None)
    if odd is not None:
        raise NoiseganError(
            f"images differ in colour: {source.item(0)} is {kinds[first]}, {source.item(odd)} is "
            f"{kinds[headers[odd].channels]}; convert them to one kind"
        )
    return first


def _check_choices(resolution: int | None, resize: str | None, crop: str | None) -> None:
    if resolution is not None and resolution not in RESOLUTIONS:
        raise NoiseganError(f"--resolution {resolution} is not one of {', '.join(map(str, RESOLUTIONS))}")
    if resize is not None and resize not in RESIZES:
        raise NoiseganError(f"--resize {resize!r} is not one of {', '.join(RESIZES)}")
    if crop is not None and crop not in CROPS:
        raise NoiseganError(f"--crop {crop!r} is not one of {', '.join(CROPS)}; leave it out to crop nothing")
