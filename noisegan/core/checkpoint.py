"""Snapshots: one safetensors file with everything to go on from, and the same facts beside it as readable JSON.

Tensors are named `G.<parameter>`, `D.<parameter>`, `G_ema.<parameter>`, `opt_G/<parameter>/<key>` and so on; the JSON
is also inside the file, under the metadata key `noisegan`. Loading never executes code. The file appears under its
name when it is whole, never before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from noisegan.errors import NoiseganError
from noisegan.files import atomic_path, write_json

FORMAT = "noisegan-snapshot"
FORMAT_VERSION = 1
SUFFIX = ".safetensors"
_STEM = "network-snapshot-"


def kimg_label(nimg: int) -> str:
    """Images as a name: `000012` for 12,000 images, `000000.040` for 40."""
    return f"{nimg // 1000:06d}" + (f".{nimg % 1000:03d}" if nimg % 1000 else "")


def snapshot_name(nimg: int) -> str:
    return f"{_STEM}{kimg_label(nimg)}{SUFFIX}"


def snapshots(folder: Path) -> list[Path]:
    """All snapshots of a run folder, oldest first."""
    found = []
    for path in folder.glob(f"{_STEM}*{SUFFIX}"):
        try:
            found.append((float(path.name[len(_STEM) : -len(SUFFIX)]), path))
        except ValueError:
            continue
    return [path for _, path in sorted(found)]


def find_snapshot(path: str | Path) -> Path:
    """The snapshot at `path`, or the last one of the run folder at `path`.

    Raises:
        NoiseganError: when there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise NoiseganError(f"there is no snapshot or run folder at {path}")
    found = snapshots(path)
    if not found:
        raise NoiseganError(f"the folder {path} holds no snapshot ({_STEM}*{SUFFIX})")
    return found[-1]


def save_snapshot(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a snapshot and its JSON.

    Raises:
        NoiseganError: when it cannot be written; whatever was there before stays.
    """
    facts = {"format": FORMAT, "format_version": FORMAT_VERSION} | facts
    # Copies: parameters may share storage with views, which safetensors refuses.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic_path(path) as temporary:
            save_file(plain, temporary, metadata={"noisegan": json.dumps(facts, allow_nan=False)})
            write_json(path.with_suffix(".json"), facts)
    except (NoiseganError, SafetensorError) as error:
        raise NoiseganError(
            f"could not save the state: {error}; earlier snapshots are whole: make room on the disk and go on from them"
        ) from error


def read_facts(path: Path) -> dict[str, Any]:
    """The JSON of a snapshot.

    Raises:
        NoiseganError: when the file is truncated, foreign, or of a later format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("noisegan")
    except (OSError, SafetensorError) as error:
        raise NoiseganError(f"{path} is not a whole safetensors file ({error}); choose another snapshot") from None
    if text is None:
        raise NoiseganError(f"{path} is a safetensors file but not a snapshot of noisegan")
    facts: dict[str, Any] = json.loads(text)
    if facts.get("format") != FORMAT or facts.get("format_version", 0) > FORMAT_VERSION:
        raise NoiseganError(
            f"{path} has snapshot format {facts.get('format')!r} version {facts.get('format_version')}; "
            f"this noisegan reads {FORMAT!r} up to version {FORMAT_VERSION}: install a later noisegan"
        )
    missing = {"config", "networks", "noise", "pairing_data", "nimg", "counters"} - facts.keys()
    if missing:
        raise NoiseganError(f"{path} is damaged: its description lacks {', '.join(sorted(missing))}")
    return facts


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Tensors whose names start with `prefix`, by the rest of their names, on the CPU."""
    with safe_open(path, framework="pt") as file:
        return {name[len(prefix) :]: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
