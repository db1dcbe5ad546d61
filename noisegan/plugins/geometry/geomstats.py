"""geomstats behind a guard: its import without its side effects, and any of its spaces as a manifold.

Importing geomstats 2.8.0 with its PyTorch backend sets torch's default dtype to float64 and the root logger to INFO,
and fails with numpy 2.4, which no longer has `trapz`. `import_geomstats` undoes the first two and mends the third for
the time of the import.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from noisegan.errors import NoiseganError

_BACKEND = "GEOMSTATS_BACKEND"
_LOCK = threading.RLock()


def import_geomstats() -> Any:
    """`geomstats.backend` on PyTorch, imported with nothing else changed.

    The default dtype, the root logger, warning filters, random states, `numpy` and the environment are afterwards what
    they were. Spaces are then found by `importlib.import_module("geomstats.geometry.hypersphere")` and the like.

    Raises:
        NoiseganError: geomstats is missing, or was imported with another backend.
    """
    with _LOCK:
        backend = sys.modules.get("geomstats.backend")
        if backend is None:
            with _contained():
                backend = _first_import()
    name = backend.__name__.rpartition(".")[2]
    if name != "pytorch":
        raise NoiseganError(
            f"geomstats was already imported with its {name} backend and cannot change it; "
            f"set the environment variable {_BACKEND}=pytorch before anything imports geomstats"
        )
    return backend


def _first_import() -> Any:
    try:
        backend = importlib.import_module("geomstats.backend")
        importlib.import_module("geomstats.geometry.base")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "geomstats":
            raise
        raise NoiseganError(
            "the package geomstats is not installed; install it with `pip install geomstats>=2.8`"
        ) from error
    return backend


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """What the import of geomstats needs, and afterwards the state from before."""
    root = logging.getLogger()
    level, handlers, dtype = root.level, list(root.handlers), torch.get_default_dtype()
    environment = os.environ.get(_BACKEND)
    lacks_trapz = not hasattr(np, "trapz")  # removed in numpy 2.4; geomstats 2.8.0 imports it by this name
    os.environ[_BACKEND] = "pytorch"
    if lacks_trapz:
        vars(np)["trapz"] = np.trapezoid
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if lacks_trapz:
            del vars(np)["trapz"]
        torch.set_default_dtype(dtype)
        root.setLevel(level)
        root.handlers[:] = handlers
        if environment is None:
            os.environ.pop(_BACKEND, None)
        else:
            os.environ[_BACKEND] = environment
