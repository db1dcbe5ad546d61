"""Strategy expressions: grammar, errors, and that the text of a strategy reads back as the strategy."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ToyFeature, toy

from noisegan.api import Field, Params, Strategy
from noisegan.errors import NoiseganError
from noisegan.expression import parse_expression
from noisegan.manager import bind


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("fuzzy", [("fuzzy", {})]),
        ("  fuzzy ( ) ", [("fuzzy", {})]),
        ("fuzzy(alpha=0.3)", [("fuzzy", {"alpha": 0.3})]),
        ("a(x=1,y = -2e-3)", [("a", {"x": 1, "y": -0.002})]),
        ("a(x=true, y=False, z=None)", [("a", {"x": True, "y": False, "z": None})]),
        ("a(x=scaled)", [("a", {"x": "scaled"})]),
        ("a(x='scaled')", [("a", {"x": "scaled"})]),
        ("a(x='true')", [("a", {"x": "true"})]),
        ("a(x='one, (two) + three')", [("a", {"x": "one, (two) + three"})]),
        ("a(x=[1, 2], y=(3, 4))", [("a", {"x": [1, 2], "y": (3, 4)})]),
        ("a(x={'k': [1, 2]})", [("a", {"x": {"k": [1, 2]}})]),
        (r"a(x='it\'s \"so\"')", [("a", {"x": 'it\'s "so"'})]),
        ("a + b(x=1)+c", [("a", {}), ("b", {"x": 1}), ("c", {})]),
        ("a+a", [("a", {}), ("a", {})]),
        ("style-gate", [("style-gate", {})]),
    ],
)
def test_grammar(text: str, terms: list[tuple[str, dict[str, Any]]]) -> None:
    assert parse_expression(text) == terms


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a strategy is missing"),
        ("a+", "a strategy is missing"),
        ("+a", "a strategy is missing"),
        ("a b", "'a b' is not a strategy"),
        ("3d", "'3d' is not a strategy"),
        ("a(1)", "'1' is not key=value"),
        ("a(x)", "'x' is not key=value"),
        ("a(x=)", "'x=' is not key=value"),
        ("a(x=1,)", "'' is not key=value"),
        ("a(x=1, x=2)", "'x' is given twice"),
        ("a(x=1", "a bracket or quote is not closed"),
        ("a(x='1)", "a bracket or quote is not closed"),
        ("a)", "a ')' closes nothing"),
        ("a(x=1)(y=2)", "a ')' closes nothing"),
    ],
)
def test_errors_say_what_is_wrong_and_show_an_example(text: str, why: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        parse_expression(text)
    assert str(caught.value).startswith(f"cannot read the noise expression {text!r}: ")
    assert why in str(caught.value)
    assert str(caught.value).endswith("; write for example fuzzy, 'fuzzy(alpha=0.3)' or 'additive+fuzzy'")


class Shade(Enum):
    LIGHT = "light"
    DARK = "dark"


class RichParams(Params):
    flag: bool = Field(False, description="a switch")
    count: int = Field(1, description="a number")
    size: float = Field(1.0, description="a number")
    limit: float | None = Field(None, description="a number or none")
    form: Literal["scaled", "additive"] = Field("scaled", description="a choice")
    shade: Shade = Field(Shade.LIGHT, description="a choice")
    label: str = Field("", description="any text")
    sizes: tuple[int, ...] = Field((), description="numbers")
    weights: dict[str, float] = Field({}, description="numbers by name")


RICH = toy(name="rich", params=RichParams, feature=lambda site, p: ToyFeature(site))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(deadline=None, derandomize=True)
@given(
    st.builds(
        RichParams,
        flag=st.booleans(),
        count=st.integers(),
        size=NUMBERS,
        limit=st.none() | NUMBERS,
        form=st.sampled_from(["scaled", "additive"]),
        shade=st.sampled_from(Shade),
        label=TEXT,
        sizes=st.lists(st.integers(), max_size=3).map(tuple),
        weights=st.dictionaries(TEXT, NUMBERS, max_size=2),
    )
)
def test_the_text_of_a_strategy_reads_back(params: RichParams) -> None:
    text = f"none + {Strategy(RICH, params)}"
    terms = parse_expression(text)
    assert [name for name, _ in terms] == ["none", "rich"]
    assert bind(RICH, terms[1][1]).params == params


def test_the_text_names_what_differs_from_the_default() -> None:
    assert str(Strategy(RICH, RichParams())) == "rich"
    text = str(Strategy(RICH, RichParams(flag=True, form="additive", shade=Shade.DARK, sizes=(1, 2))))
    assert text == "rich(flag=True, form='additive', shade='dark', sizes=[1, 2])"
