"""What an evaluation of inversion is made with, as its folder records it: what can be gone on with, and what cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from noisegan.core.images import save_image
from noisegan.errors import NoiseganError
from noisegan.files import unwritable, write_json
from noisegan.inversion.heldout import HeldOut
from noisegan.inversion.output import file_sha256
from noisegan.inversion.projector import ProjectorOptions, unused_options

SETTINGS, RESULT = "settings.json", "evaluation.json"
_ADDED = ("indices", "drawn", "left_out_as_trained_on", "trained_on")
"""What is told of the images drawn, and changes when more are."""


def evaluation_settings(
    network: Path,
    options: ProjectorOptions,
    held_out: HeldOut,
    *,
    spaces: Sequence[str],
    noises: Sequence[str],
    own_images: int,
    hard_labels: Sequence[int],
    precision: str,
) -> dict[str, Any]:
    """What settings.json of an evaluation holds, and evaluation.json beside what was found: plain data.

    Args:
        network: a snapshot.
    """
    settings = {
        "network": str(network.resolve()),
        "network_sha256": file_sha256(network),
        "projector": {k: v for k, v in options.as_dict().items() if k not in ("space", "noise")},
        "precision": precision,
        "spaces": list(spaces),
        "noises": list(noises),
        "real_images": held_out.about | {"path": None, "indices": held_out.indices},
        "own_images": own_images,
        "hard_labels": list(hard_labels),
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def read_evaluation(outdir: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of evaluation.json, None where it is not there or is of other settings.

    Raises:
        NoiseganError: when it cannot be read.
    """
    found = _read(outdir / RESULT)
    if found is None:
        return None
    there = found | {"real_images": (found.get("real_images") or {}) | {"path": None}}
    return found if all(there.get(n) == value for n, value in settings.items() if n != "network") else None


def other_settings(outdir: Path, settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that make the inversions in a folder others than are wanted.

    More images, spaces, kinds of noise and hard labels are no such difference: they only add to what is there. Nor are
    options that what is there does not depend on.

    Raises:
        NoiseganError: when settings.json cannot be read.
    """
    there = _read(outdir / SETTINGS)
    if there is None:
        return []
    unused = unused_options(there.get("spaces") or (), there.get("noises") or ())
    before, now = _lasting(there, unused), _lasting(settings, unused)
    return [name for name in now if before[name] != now[name]]


def claim(outdir: Path, settings: Mapping[str, Any]) -> None:
    """Write settings.json.

    Raises:
        NoiseganError: when the folder holds other inversions, or something else.
    """
    path = outdir / SETTINGS
    if not path.exists() and any(not file.name.startswith(".") for file in outdir.iterdir()):
        raise NoiseganError(f"{outdir} is not empty and holds no evaluation; choose another --outdir")
    other = other_settings(outdir, settings)
    if other:
        raise NoiseganError(
            f"{outdir} holds another evaluation ({', '.join(other)} differ); choose another --outdir, or delete it"
        )
    write_json(path, dict(settings))


def write_targets(folder: Path, names: Sequence[str], images: Tensor) -> None:
    """Images [N, C, R, R] uint8 as PNG, and no others in their folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    for file in folder.glob("*.png"):
        if file.stem not in names:
            file.unlink()
    for name, image in zip(names, images, strict=True):
        save_image(image, folder / f"{name}.png")


def _lasting(settings: Mapping[str, Any], unused: set[str]) -> dict[str, Any]:
    """What every single inversion depends on. Where the network lies does not count, its content does."""
    named = {name: settings.get(name) for name in ("network_sha256", "precision")}
    projector = ProjectorOptions().as_dict() | (settings.get("projector") or {})
    real = settings.get("real_images") or {}
    return named | {
        "projector": {name: value for name, value in projector.items() if name not in unused},
        "real_images": {name: value for name, value in real.items() if name not in _ADDED},
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise NoiseganError(f"{path} cannot be read; delete it, or choose another --outdir")
    return content
