"""Manifolds by name: what a text means, what a plugin adds, and one clear sentence for what cannot be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from noisegan.cli import cli
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins
from noisegan.plugins.geometry import NATIVE, Euclidean, Manifold, Product, Sphere, Torus, manifold, product

SOURCE = """
from noisegan.api import hookimpl
from noisegan.plugins.geometry import Euclidean

class Stretched(Euclidean):
    '''Flat space, stretched.'''
    tier = "plugin"

    def __init__(self, dim, factor=2.0, *, axis=-1):
        self.name = "stretched"
        super().__init__(dim, axis=axis)
        self.factor = factor

    def exp(self, x, v):
        return x + self.factor * v

@hookimpl
def register_manifolds(register):
    register("{name}", {what})
"""


def written(path: Path, name: str = "stretched", what: str = "Stretched") -> Path:
    path.write_text(SOURCE.replace("{name}", name).replace("{what}", what))
    return path


@pytest.mark.parametrize(
    ("spec", "sizes", "dim", "point_shape"),
    [
        ("euclidean", {"dim": 4}, 4, (4,)),
        ("sphere", {"dim": 6}, 6, (7,)),
        ("sphere(dim=6)", {}, 6, (7,)),
        (" sphere( dim = 6 ) ", {}, 6, (7,)),
        ("poincare_ball(dim=2, curvature=-0.5)", {}, 2, (2,)),
        ("hyperboloid", {"dim": 5}, 5, (6,)),
        ("torus", {"dim": 3}, 3, (3, 2)),
        ("sphere(dim=3)^16", {}, 48, (64,)),
        ("sphere", {"dim": 3, "power": 16}, 48, (64,)),
        ("product(sphere(dim=3)^2, poincare_ball(dim=2))", {}, 8, (10,)),
        ("product", {"factors": "sphere(dim=3)^2, poincare_ball(dim=2)"}, 8, (10,)),
        ("product(factors='sphere(dim=3)^2, poincare_ball(dim=2)')", {}, 8, (10,)),
        ("product(product(torus(dim=2), sphere(dim=1)), euclidean(dim=1))", {}, 4, (7,)),
        ("product(torus(dim=2))^2", {}, 4, (8,)),
        ("noisegan.plugins.geometry.sphere:Sphere", {"dim": 2}, 2, (3,)),
        ("noisegan.plugins.geometry.sphere:Sphere(dim=2)^2", {}, 4, (6,)),
    ],
)
def test_what_a_text_means(spec: str, sizes: dict[str, Any], dim: int, point_shape: tuple[int, ...]) -> None:
    M = manifold(spec, **sizes)
    assert (M.dim, M.point_shape) == (dim, point_shape)
    x, _ = M.carry(torch.ones(2, M.num_features))
    assert x.shape == (2, *point_shape)


def test_products_of_objects() -> None:
    S = Sphere(3)
    M = product([S] * 16)
    assert isinstance(M, Product)
    assert M.factors == (S,) * 16
    made = manifold("product", factors=[S, "torus(dim=2)"], axis=1)
    assert isinstance(made, Product)
    assert [type(factor) for factor in made.factors] == [Sphere, Torus]
    assert made.axis == 1


def test_an_axis_reaches_powers_and_manifolds_without_one() -> None:
    M = manifold("sphere", dim=3, power=2, axis=1)
    assert isinstance(M, Product)
    assert (M.axis, M.factors[0].axis) == (1, -1)  # type: ignore[attr-defined]
    assert manifold("sphere", dim=3, axis=1).axis == 1  # type: ignore[attr-defined]
    x, _ = manifold("spd_affine", n=2, axis=1).carry(torch.ones(5, 3, 4, 4))
    assert x.shape == (5, 4, 4, 4)


READ_AS = "; write for example 'sphere(dim=63)', 'sphere(dim=3)^16' or 'product(sphere(dim=3), euclidean(dim=2))'"
ALLOWED = "is not allowed; give a whole number from 1"


@pytest.mark.parametrize(
    ("spec", "sizes", "sentence"),
    [
        (
            "spheer",
            {"dim": 3},
            "unknown manifold 'spheer' (a class of your own is written module:Class, a space of geomstats "
            "geomstats:hypersphere.Hypersphere?dim=63); did you mean 'sphere'?",
        ),
        ("sphere", {}, "manifold 'sphere' (dim: points in R^(dim+1)) needs dim; write for example dim=3"),
        ("sphere", {"dim": 0}, f"manifold 'sphere': dim=0 {ALLOWED}"),
        ("sphere(dim=2.5)", {}, f"manifold 'sphere': dim=2.5 {ALLOWED}"),
        ("torus", {"dim": True}, f"manifold 'torus': dim=True {ALLOWED}"),
        (
            "sphere",
            {"n": 3},
            "manifold 'sphere' (dim: points in R^(dim+1)) takes no size 'n'; it takes dim, axis, power",
        ),
        ("sphere(dim=3)", {"dim": 3}, f"cannot read the manifold 'sphere(dim=3)': 'dim' is given twice{READ_AS}"),
        ("sphere(3)", {}, f"cannot read the manifold 'sphere(3)': '3' is not size=value{READ_AS}"),
        (
            "sphere(dim=3",
            {},
            f"cannot read the manifold 'sphere(dim=3': it is not of the form name(size=value)^power{READ_AS}",
        ),
        ("", {}, f"cannot read the manifold '': it is not of the form name(size=value)^power{READ_AS}"),
        (
            "product(sphere(dim=3),)",
            {},
            f"cannot read the manifold 'product(sphere(dim=3),)': there is nothing between two commas{READ_AS}",
        ),
        (
            "product((sphere(dim=3))",
            {},
            f"cannot read the manifold 'product((sphere(dim=3))': a bracket or quote is not closed{READ_AS}",
        ),
        ("sphere(dim=3)^0", {}, f"manifold 'sphere': power=0 {ALLOWED}"),
        ("product()", {}, "manifold 'product': there are no factors; give one or more manifolds"),
        ("product", {"factors": [3]}, "manifold 'product': a factor is 3; give manifolds"),
        (
            "product(factors=3)",
            {},
            f"cannot read the manifold 'product(factors=3)': factors=3 are no manifolds{READ_AS}",
        ),
        (
            "product",
            {"factors": [Sphere(2, axis=1)]},
            "manifold 'product': its factor 'sphere' has axis=1; leave the factors' axis out and give it to the "
            "product",
        ),
        (
            "poincare_ball(dim=2, curvature=1)",
            {},
            "manifold 'poincare_ball': curvature=1 is not allowed; give a negative number",
        ),
        ("nowhere:Sphere", {"dim": 2}, "manifold 'nowhere:Sphere' cannot be imported: No module named 'nowhere'"),
        (
            "noisegan.errors:NoiseganError",
            {},
            "manifold 'noisegan.errors:NoiseganError' is no subclass of noisegan.plugins.geometry.Manifold",
        ),
        (
            "geomstats:hypersphere.Hypersphere?dim=3",
            {"dim": 3},
            "manifold 'geomstats:hypersphere.Hypersphere?dim=3' takes 'dim' in its text only, after the question mark",
        ),
    ],
)
def test_one_sentence_for_what_cannot_be(spec: str, sizes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        manifold(spec, **sizes)
    assert str(caught.value) == sentence


def test_a_plugins_manifold_is_found_once_plugins_are_loaded(tmp_path: Path) -> None:
    with pytest.raises(NoiseganError, match="unknown manifold 'stretched'"):
        manifold("stretched", dim=2)
    plugins = Plugins([written(tmp_path / "mine.py")], entry_points=False)
    M = manifold("stretched(dim=2, factor=3)")
    assert float(M.exp(torch.zeros(2), torch.ones(2))[0]) == 3
    assert plugins.registered["manifold"]["stretched"][1].plugin == "mine"
    Plugins(entry_points=False)
    assert manifold("stretched^2", dim=2).dim == 4


def test_bad_registrations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NoiseganError, match="manifold 'sphere' is registered by 'noisegan"):
        Plugins([written(tmp_path / "taken.py", name="sphere")], entry_points=False)
    with pytest.raises(NoiseganError, match=r"as the manifold 'made'; give its class"):
        Plugins([written(tmp_path / "instance.py", name="made", what="Stretched(3)")], entry_points=False)


def test_a_registered_class_that_is_no_manifold_is_named_when_it_is_used(tmp_path: Path) -> None:
    plugins = Plugins([written(tmp_path / "nothing.py", name="nothing", what="dict")], entry_points=False)
    with pytest.raises(NoiseganError) as caught:
        plugins.parse("geodesic(manifold=nothing)")
    assert "the manifold 'nothing' was registered with a class dict that is no subclass of" in str(caught.value)


def test_native_manifolds_are_registered_like_any_other() -> None:
    registered = Plugins(entry_points=False).registered["manifold"]
    assert [M.name for M in NATIVE] == [n for n, (_, source) in registered.items() if source.origin == "built-in"]
    assert all(M.tier == "native" for M in NATIVE)
    assert issubclass(Euclidean, Manifold)


def listed(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["manifolds", *arguments], env={"COLUMNS": "150"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_lists_all_with_what_they_say(tmp_path: Path) -> None:
    text = listed()
    for M in NATIVE:
        assert re.search(rf"^{M.name} +native ", text, re.MULTILINE)
    assert "geomstats:... " in text
    assert "sphere(dim=3)^16" in text
    found = {item["name"]: item for item in json.loads(listed("--json", "--plugin", str(written(tmp_path / "m.py"))))}
    assert found["sphere"]["sizes"] == "dim: points in R^(dim+1)"
    assert found["sphere"]["arguments"] == ["dim", "axis"]
    assert found["sphere"]["plugin"]["origin"] == "built-in"
    assert (found["stretched"]["tier"], found["stretched"]["summary"]) == ("plugin", "Flat space, stretched.")
    assert set(found["sphere"]) == set(found["stretched"]) == set(found["geomstats:module.Class?size=value"])


def test_the_command_names_what_is_no_manifold(tmp_path: Path) -> None:
    path = written(tmp_path / "wrong.py", name="wrong", what="dict")
    result = CliRunner().invoke(cli, ["manifolds", "--plugin", str(path)])
    assert isinstance(result.exception, NoiseganError)
    assert str(result.exception) == (
        "plugin 'wrong' registers the manifold 'wrong', whose class dict is no subclass of "
        "noisegan.plugins.geometry.Manifold"
    )


def test_the_page_is_right() -> None:
    """Its example runs, and its table has every native manifold."""
    page = (Path(__file__).parents[1] / "docs" / "geometry.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 1
    exec(blocks[0], {"__name__": "page"})
    for M in NATIVE:
        row = next((line for line in page.splitlines() if line.startswith("| `") and f"`{M.name}`" in line), None)
        assert row is not None, M.name
        assert M.frame.split()[0] in row
