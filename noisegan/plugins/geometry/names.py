"""Manifolds by name: `manifold('sphere', dim=63)`, `manifold('product(sphere(dim=3)^16, poincare_ball(dim=2))')`.

    name                        euclidean, sphere, ... or one that a plugin registered
    name(size=value, ...)       with its sizes in the text; product(A, B, ...) takes manifolds
    A^16                        a power
    package.module:Class        a class of the user's, sizes as above
    geomstats:hypersphere.Hypersphere?dim=63

A plugin's manifolds are known once `noisegan.manager.Plugins(...)` has loaded it, as every command does.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from noisegan.errors import NoiseganError, near_match
from noisegan.plugins.geometry.manifold import Manifold
from noisegan.plugins.geometry.product import Product
from noisegan.plugins.geometry.vector import positive

_TERM = re.compile(r"(?P<name>[^()^]+?)\s*(?:\((?P<sizes>.*)\))?\s*(?:\^\s*(?P<power>\d+))?", re.DOTALL)
_SIZE = re.compile(r"(?P<key>[A-Za-z_]\w*)\s*=\s*(?P<value>.+)", re.DOTALL)
_known: dict[str, type[Manifold]] = {}


def remember(manifolds: Mapping[str, type[Manifold]]) -> None:
    """Make manifold classes known by their names, beside those known already."""
    _known.update(manifolds)


def manifold(spec: str, **sizes: Any) -> Manifold:
    """The manifold of a name and its sizes.

    Args:
        spec: as the head of this file describes.
        sizes: what the class takes, in addition to what stands in the text. `power=k` makes its k-th power. `axis=1`
            lays its coordinates along an axis; a manifold of matrices is flattened for that.

    Raises:
        NoiseganError: for an unknown name (near matches offered), a missing, unknown or bad size, or a text that cannot
            be read.
    """
    if spec.startswith("geomstats:"):
        adapter = importlib.import_module("noisegan.plugins.geometry.geomstats")
        unknown = sorted(set(sizes) - {"power", "axis"})
        if unknown:
            raise NoiseganError(f"manifold {spec!r} takes {unknown[0]!r} in its text only, after the question mark")
        return _arranged(spec, adapter.geomstats_manifold(spec), **sizes)
    term = _TERM.fullmatch(spec.strip())
    if term is None:
        raise _malformed(spec, "it is not of the form name(size=value)^power")
    name = term["name"].strip()
    arguments = dict(sizes)
    if term["power"]:
        arguments["power"] = int(term["power"])
    factors = []
    for item in _split(term["sizes"] or "", spec):
        size = _SIZE.fullmatch(item)
        if size is None:
            factors.append(item)
        elif size["key"] in arguments:
            raise _malformed(spec, f"{size['key']!r} is given twice")
        else:
            arguments[size["key"]] = _value(size["value"])
    cls = _find(name)
    if issubclass(cls, Product):
        arguments["factors"] = _factors(spec, factors, arguments.get("factors", ()))
    elif factors:
        raise _malformed(spec, f"{factors[0]!r} is not size=value")
    return _built(name, cls, arguments)


def _find(name: str) -> type[Manifold]:
    if ":" in name:
        return _import(name)
    if name not in _known:
        raise NoiseganError(
            f"unknown manifold {name!r} (a class of your own is written module:Class, a space of geomstats "
            f"geomstats:hypersphere.Hypersphere?dim=63){near_match(name, _known)}"
        )
    found = _known[name]
    if not issubclass(found, Manifold):
        raise NoiseganError(
            f"the manifold {name!r} was registered with a class {found.__name__} that is no subclass of "
            "noisegan.plugins.geometry.Manifold"
        )
    return found


def _import(name: str) -> type[Manifold]:
    """The class behind `package.module:Class`."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise NoiseganError(f"manifold {name!r} cannot be imported: {' '.join(str(error).split())}") from None
    if not (isinstance(found, type) and issubclass(found, Manifold)):
        raise NoiseganError(f"manifold {name!r} is no subclass of noisegan.plugins.geometry.Manifold")
    return found


def _factors(spec: str, texts: Iterable[str], given: Any) -> list[Manifold]:
    """A product's factors: standing in its brackets, or `factors=` as a text or a list."""
    if not isinstance(given, str | list | tuple):
        raise _malformed(spec, f"factors={given!r} are no manifolds")
    listed = _split(given, spec) if isinstance(given, str) else list(given)
    made: list[Manifold] = []
    for item in (*texts, *listed):
        factor = manifold(item) if isinstance(item, str) else item
        made += factor.factors if isinstance(factor, Product) and factor.axis == -1 else [factor]
    return made


def _built(name: str, cls: type[Manifold], sizes: dict[str, Any]) -> Manifold:
    """An instance of the class, its signature checked first so that a missing size is one sentence."""
    parameters = inspect.signature(cls).parameters
    about = f"manifold {name!r} ({cls.sizes})"
    power = sizes.pop("power", 1)
    axis = sizes.pop("axis", -1) if power != 1 or "axis" not in parameters else -1
    for key in sizes:
        if key not in parameters:
            raise NoiseganError(f"{about} takes no size {key!r}; it takes {', '.join([*parameters, 'power'])}")
    missing = [
        key for key, parameter in parameters.items() if parameter.default is parameter.empty and key not in sizes
    ]
    if missing:
        raise NoiseganError(f"{about} needs {' and '.join(missing)}; write for example {missing[0]}=3")
    return _arranged(name, cls(**sizes), power, axis)


def _arranged(name: str, made: Manifold, power: Any = 1, axis: int = -1) -> Manifold:
    """The manifold's power, along the axis."""
    if power == 1 and axis == -1:
        return made
    return Product([made] * positive(name, "power", power), axis=axis)


def _split(text: str, spec: str) -> list[str]:
    """Items between the commas that stand outside brackets and quotes."""
    items, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            break
        if character == "," and not quote and depth == 0:
            items.append("")
        else:
            items[-1] += character
    if depth or quote:
        raise _malformed(spec, "a bracket or quote is not closed")
    items = [item.strip() for item in items]
    if items == [""]:
        return []
    if "" in items:
        raise _malformed(spec, "there is nothing between two commas")
    return items


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _malformed(spec: str, why: str) -> NoiseganError:
    return NoiseganError(
        f"cannot read the manifold {spec!r}: {why}; write for example 'sphere(dim=63)', 'sphere(dim=3)^16' or "
        "'product(sphere(dim=3), euclidean(dim=2))'"
    )
