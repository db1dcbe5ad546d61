"""The images to invert: read from a file or a folder, brought to the network's size and channels.

Size: an image that is not R x R becomes its largest centred square, resized to R x R by Lanczos. Channels: a grey
network sees luma (ITU-R 601-2), an RGB network sees RGBA over white and grey repeated, an RGBA network sees others as
opaque. What was done is told with each target.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from noisegan.core.data.fit import Fit
from noisegan.core.data.pictures import CHANNELS, KNOWN, SUFFIXES, read_pixels, to_image
from noisegan.core.data.source import Pixels
from noisegan.core.images import to_float
from noisegan.errors import NoiseganError


@dataclass(frozen=True, eq=False)
class Target:
    """An image to invert.

    name: its folder's name in the output: the file's name without suffix, with it where two would be the same.
    path: the file.
    image: [C, R, R] uint8, as the network makes it.
    changes: what was done to it, such as `centre 640x640 of 640x480, lanczos to 32x32`; empty when nothing was.
    """

    name: str
    path: Path
    image: Tensor
    changes: str


def read_targets(path: str | Path, *, resolution: int, channels: int) -> list[Target]:
    """The picture at `path`, or all pictures of the folder there by name, without hidden ones and folders within.

    Raises:
        NoiseganError: when there is nothing, no picture, or one that cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise NoiseganError(f"there is nothing at {path}: name an image, or a folder of images")
    files = sorted(filter(_is_picture, path.iterdir())) if path.is_dir() else [path]
    if not files:
        raise NoiseganError(f"the folder {path} holds no image ({KNOWN} are read): name another")
    stems = [file.stem for file in files]
    return [
        _read(file, file.stem if stems.count(file.stem) == 1 else file.name, resolution, channels) for file in files
    ]


def as_batch(targets: list[Target]) -> Tensor:
    """[N, C, R, R] float32 in [-1, 1]."""
    return to_float(torch.stack([target.image for target in targets]))


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _read(path: Path, name: str, resolution: int, channels: int) -> Target:
    with path.open("rb") as handle:
        pixels = read_pixels(handle, str(path))
    changes = []
    height, width, found = pixels.shape
    if (height, width) != (resolution, resolution):
        side = min(height, width)
        cropped = f"centre {side}x{side} of {width}x{height}, " if height != width else f"{width}x{height}, "
        changes.append(f"{cropped}lanczos to {resolution}x{resolution}")
        pixels = Fit(resolution, "lanczos", "center")(pixels)
    if found != channels:
        pixels, change = _recoloured(pixels, channels)
        changes.append(change)
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()  # [C, R, R]
    return Target(name, path, image, ", ".join(changes))


def _recoloured(pixels: Pixels, channels: int) -> tuple[Pixels, str]:
    """[H, W, C] with `channels` channels, and how they came about."""
    image = to_image(pixels)
    change = ""
    if image.mode == "RGBA" and channels < 4:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image, change = Image.alpha_composite(white, image).convert("RGB"), "over white"
    mode = {count: name for name, count in CHANNELS.items()}[channels]
    if image.mode != mode:
        what = {"L": "to grey", "RGB": "grey repeated", "RGBA": "made opaque"}[mode]
        image, change = image.convert(mode), f"{change}, {what}" if change else what
    made = np.asarray(image, np.uint8)
    return made.reshape(*made.shape[:2], channels), change
