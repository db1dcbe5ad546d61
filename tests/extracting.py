"""Images for feature extractors, and no weights but those in packages: what the tests of extractors share.

A file of tests takes the fixture over by assignment: `places = extracting.places`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights but those in packages, and no network."""
    monkeypatch.setenv("NOISEGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NOISEGAN_OFFLINE", "1")
    monkeypatch.delenv("NOISEGAN_WEIGHTS", raising=False)


def waves() -> tuple[Tensor, Tensor]:
    """Two images [1, 3, 64, 64] in [-1, 1], made by a formula."""
    i = torch.arange(64.0)
    y, x = torch.meshgrid(i, i, indexing="ij")
    a = torch.stack([torch.sin(x / 5), torch.cos(y / 7), torch.sin((x + y) / 9)])
    b = torch.stack([torch.sin(x / 5 + 0.5), torch.cos(y / 6), torch.sin((x - y) / 9)])
    return a[None], b[None]


def random_images(n: int, channels: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)
