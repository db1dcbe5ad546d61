"""The data sets that have a name: `digits`, inside scikit-learn, and `fashion-mnist`, from the system or the cache."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

from noisegan.core.data.arrays import ArraySource, open_idx
from noisegan.core.data.source import Source
from noisegan.errors import NoiseganError
from noisegan.files import cache_folder, temporary_folder

FASHION_SYSTEM = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts it."""

FASHION_FILES = ("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte")


def digits() -> Source:
    """Alpaydin & Kaynak's handwritten digits: 1,797 grey images of 8x8, values 0..16 scaled to 0..255, ten classes."""
    table = _digits_table()  # [1797, 8 * 8 + 1]
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    source = ArraySource("digits", images, table[:, -1].astype(int), path=None, labels_place="scikit-learn")
    source.default_resize = "bicubic"  # 8 -> 32: smooth strokes; lanczos rings around them, nearest makes a mosaic
    return source


def _digits_table() -> npt.NDArray[np.float64]:
    """Pixels and, last, the class of each digit. Read in place, for importing scikit-learn takes two seconds."""
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # a version that keeps it elsewhere

    data = load_digits()
    return np.column_stack([data.data, data.target])


def fashion_mnist() -> Source:
    """Xiao, Rasul & Vollgraf's Fashion-MNIST, training split: 60,000 grey images of 28x28, ten classes.

    Looked up in the system, then in noisegan's cache; else fetched into the cache by torchvision.

    Raises:
        NoiseganError: when it is in neither place and cannot be fetched, or what is there is damaged.
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
    try:
        source = open_idx(path, "fashion-mnist")
    except NoiseganError as error:
        if path.parent not in places[1:]:
            raise
        raise NoiseganError(f"{error}: delete {path} and start again, then both files are fetched anew") from error
    source.default_resize = "pad"  # 28 -> 32 with a black margin, as LeNet took MNIST
    return source


BUILT_IN = {"digits": digits, "fashion-mnist": fashion_mnist}


def _find(places: list[Path]) -> Path | None:
    return next((place / name for place in places for name in FASHION_FILES if (place / name).is_file()), None)


def _fetch(cache: Path) -> str:
    """Try to fetch it; why that failed, in a few words.

    torchvision writes under the final names, so it does that in a folder of this process alone. What arrived whole is
    renamed: the labels before the images, by which the data set is found, so that nobody finds one without the other.
    Of two processes that fetch, the later replaces files by equal ones.
    """
    try:
        from torchvision.datasets import FashionMNIST

        cache.mkdir(parents=True, exist_ok=True)
        with temporary_folder(cache, ".fetch-") as folder:
            FashionMNIST(str(folder), train=True, download=True)
            images = _find([folder / "FashionMNIST" / "raw"])
            if images is None:
                return "the download left no file"
            labels = images.with_name(images.name.replace("images-idx3", "labels-idx1"))
            read = open_idx(images, "fashion-mnist")
            if not labels.is_file() or len(read.labels()) != len(read):
                return "the download left no labels"
            for file in (labels, images):
                file.replace(cache / file.name)
    except Exception as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
    return "the download left no file"
