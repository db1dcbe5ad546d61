"""geomstats behind a guard: its import without its side effects, and its spaces by name.

Importing geomstats 2.8.0 with its PyTorch backend sets torch's default dtype to float64 and the root logger to INFO,
and fails with numpy 2.4, which no longer has `trapz`. `import_geomstats` undoes the first two and mends the third for
the time of the import.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from noisegan.errors import NoiseganError
from noisegan.plugins.geometry.geomstats_space import build
from noisegan.plugins.geometry.manifold import Manifold

_BACKEND = "GEOMSTATS_BACKEND"
_LOCK = threading.RLock()
_SPEC = re.compile(r"geomstats:(?P<module>\w+)\.(?P<name>\w+)(?:\?(?P<arguments>.*))?", re.DOTALL)


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


def geomstats_manifold(spec: str) -> Manifold:
    """The manifold of `geomstats:module.Class?argument=value&...`, such as `geomstats:hypersphere.Hypersphere?dim=63`.

    The module is one of `geomstats.geometry` or `geomstats.information_geometry`, values are Python literals, and the
    metric is the one that the space comes with. See `GeomstatsSpace` for what is guarded.

    Raises:
        NoiseganError: geomstats is missing, the name or an argument cannot be read, or there is no such space.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise NoiseganError(
            f"{spec!r} is not the name of a space of geomstats; "
            "write geomstats:module.Class?argument=value, such as geomstats:hypersphere.Hypersphere?dim=63"
        )
    arguments = {}
    for item in re.split(r"[&,](?=\s*\w+\s*=)", match["arguments"] or ""):
        key, _, value = (part.strip() for part in item.partition("="))
        if not item.strip():
            continue
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise NoiseganError(
                f"{spec!r}: {item!r} is not argument=value with a Python literal, such as dim=63"
            ) from None
    import_geomstats()
    cls = None
    for package in ("geomstats.geometry", "geomstats.information_geometry"):
        with contextlib.suppress(ModuleNotFoundError):
            cls = cls or getattr(importlib.import_module(f"{package}.{match['module']}"), match["name"], None)
    if cls is None:
        raise NoiseganError(
            f"{spec!r}: geomstats has no {match['name']!r} in geometry.{match['module']} or "
            f"information_geometry.{match['module']}; see its documentation for names"
        )
    return build(spec, cls, arguments)
