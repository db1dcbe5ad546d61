"""What every test shares: one thread, the built-in plugins, no GPU tests where there is no GPU."""

from __future__ import annotations

import gc

import pytest
import torch

from noisegan.ext import load
from noisegan.manager import Plugins


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _native_operations() -> None:
    """Built once, in the user's cache, before a test points noisegan to another."""
    load.kernels_for("cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: looking through it for garbage takes some hundredths of the tests' time


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    """The built-in plugins, whatever else is installed."""
    return Plugins(entry_points=False)
