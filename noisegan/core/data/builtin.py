"""The data sets that have a name: `digits`, inside scikit-learn, and `fashion-mnist`, from the system or the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from noisegan.core.data.arrays import ArraySource, open_idx
from noisegan.core.data.source import Source
from noisegan.core.files import cache_folder
from noisegan.errors import NoiseganError

FASHION_SYSTEM = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts it."""

FASHION_FILES = ("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte")


def digits() -> Source:
    """Alpaydin & Kaynak's handwritten digits: 1,797 grey images of 8x8, values 0..16 scaled to 0..255, ten classes."""
    from sklearn.datasets import load_digits  # takes a second

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]  # [1797, 8, 8, 1]
    source = ArraySource("digits", images, data.target, path=None, labels_place="scikit-learn")
    source.default_resize = "bicubic"  # 8 -> 32: smooth strokes; lanczos rings around them, nearest makes a mosaic
    return source


def fashion_mnist() -> Source:
    """Xiao, Rasul & Vollgraf's Fashion-MNIST, training split: 60,000 grey images of 28x28, ten classes.

    Looked up in the system, then in noisegan's cache; else fetched into the cache by torchvision.

    Raises:
        NoiseganError: when it is in neither place and cannot be fetched.
    """
    cache = cache_folder() / "fashion-mnist"
    places = [FASHION_SYSTEM, cache, cache / "FashionMNIST" / "raw"]
    path = _find(places)
    if path is None:
        reason = _fetch(cache)
        path = _find(places)
        if path is None:
            looked = ", ".join(str(place) for place in places)
            raise NoiseganError(
                f"fashion-mnist is not on this machine (looked in {looked}) and could not be fetched ({reason}); "
                f"install the Debian package dataset-fashion-mnist, or put {FASHION_FILES[0]} and its labels in {cache}"
            )
    source = open_idx(path, "fashion-mnist")
    source.default_resize = "pad"  # 28 -> 32 with a black margin, as LeNet took MNIST
    return source


BUILT_IN = {"digits": digits, "fashion-mnist": fashion_mnist}


def _find(places: list[Path]) -> Path | None:
    return next((place / name for place in places for name in FASHION_FILES if (place / name).is_file()), None)


def _fetch(cache: Path) -> str:
    """Try to fetch it; why that failed, in a few words."""
    try:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(str(cache), train=True, download=True)
    except Exception as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
    return "the download left no file"
