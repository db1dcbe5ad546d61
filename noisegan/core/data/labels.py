"""Labels: classes as integers 0 .. K - 1, from an array or from the `dataset.json` beside the images.

{"labels": [["cats/1.png", 0], ["dogs/1.png", 1]]}      or      {"labels": null}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noisegan.core.data.source import Classes
from noisegan.errors import NoiseganError


def classes_from_array(labels: NDArray[Any], n_images: int, where: str) -> Classes:
    """Labels [N] of any integer type as [N] int64.

    Raises:
        NoiseganError: for another shape, count or type, or classes that are not 0 .. K - 1.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise NoiseganError(
            f"the labels of {where} must be one integer class per image, shape [{n_images}]; they are {labels.dtype} "
            f"of shape {list(labels.shape)}: store the class numbers 0..K-1"
        )
    if len(labels) != n_images:
        raise NoiseganError(f"{where} has {n_images} images but {len(labels)} labels; give one label per image")
    return _without_gaps(labels.astype(np.int64), where)


def classes_from_manifest(text: bytes, names: Sequence[str], where: str) -> Classes | None:
    """The class of every named image from the text of a `dataset.json`, [N] int64; None when its labels are null.

    `names` are paths relative to the folder of the manifest, with `/`.

    Raises:
        NoiseganError: for text that is not such JSON, a class that is no integer, or an image that is not named.
    """
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoiseganError(f"{where} is not valid JSON ({error}); mend or remove it") from error
    if not isinstance(manifest, dict):
        raise NoiseganError(f'{where} must be {{"labels": [[name, class], ...]}} or have null labels; write it so')
    labels = manifest.get("labels")
    if labels is None:
        return None
    by_name = _by_name(labels, where)
    missing = next((name for name in names if name not in by_name), None)
    if missing is not None:
        raise NoiseganError(
            f"{where} has no label for {missing}; --cond needs a label for every image: add it or leave --cond out"
        )
    return _without_gaps(np.array([by_name[name] for name in names], dtype=np.int64), where)


def _by_name(labels: Any, where: str) -> dict[str, int]:
    if not isinstance(labels, list):
        raise NoiseganError(
            f"the labels of {where} must be a list of [name, class] or null; found a {type(labels).__name__}"
        )
    by_name: dict[str, int] = {}
    for entry in labels:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise NoiseganError(f"the labels of {where} must be pairs [name, class]; found {json.dumps(entry)[:80]}")
        name, label = entry
        if isinstance(label, bool) or not isinstance(label, int) or abs(label) >= 2**31:
            raise NoiseganError(
                f"{where} gives {name} the class {json.dumps(label)[:80]}; classes must be integers 0..K-1"
            )
        by_name[name.replace("\\", "/")] = label
    return by_name


def _without_gaps(classes: Classes, where: str) -> Classes:
    """The classes, once it is certain that they are 0 .. K - 1 and that each has an image."""
    lowest, highest = int(classes.min()), int(classes.max())
    if lowest < 0:
        raise NoiseganError(f"{where} has the class {lowest}; classes must be integers 0..K-1: number them from 0")
    found = np.unique(classes)
    if len(found) != highest + 1:
        gap = next(k for k, value in enumerate(found) if k != value)
        raise NoiseganError(
            f"{where} has classes up to {highest} but no image of class {gap}; classes must be 0..K-1, each with an "
            "image: number them without gaps"
        )
    return classes
