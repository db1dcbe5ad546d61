"""Sizes that generator and discriminator share, and what values they may take."""

from __future__ import annotations

import math

from noisegan.errors import NoiseganError

ARCHITECTURES = ("skip", "residual", "plain")
RESOLUTIONS = tuple(2**k for k in range(3, 11))


def block_resolutions(resolution: int) -> list[int]:
    """4, 8, ..., resolution.

    Raises:
        NoiseganError: unless the resolution is a power of two from 8 to 1024.
    """
    if resolution not in RESOLUTIONS:
        raise NoiseganError(f"resolution {resolution} is not a power of two from 8 to 1024")
    return [2**k for k in range(2, int(math.log2(resolution)) + 1)]


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Width of a feature map: min(channel_max, channel_base / resolution)."""
    return max(1, min(channel_max, channel_base // resolution))


def check_image_channels(channels: int) -> None:
    if channels not in (1, 3, 4):
        raise NoiseganError(f"images have 1, 3 or 4 channels, not {channels}")


def check_architecture(architecture: str) -> None:
    if architecture not in ARCHITECTURES:
        raise NoiseganError(f"architecture {architecture!r} is unknown: choose {', '.join(ARCHITECTURES)}")
