"""The conformance suite: does a strategy keep the promises of `noisegan.api`?

    results = check_strategy("fuzzy(alpha=0.3)")          # a list of CheckResult; a failing check raises nothing
    assert_conforms(MY_SPEC)                              # AssertionError with one sentence per broken promise

In a plugin's own tests, with each check as a test of its own:

    @pytest.mark.parametrize("check", strategy_checks(MY_SPEC))
    def test_conforms(check):
        check()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from noisegan.api import Strategy, StrategySpec
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins, bind
from noisegan.testing import (
    checks_contract,
    checks_forward,
    checks_gradient,
    checks_network,
    checks_noise,
    checks_penalty,
    checks_state,
)
from noisegan.testing.places import Place, global_seed, places
from noisegan.testing.registry import CHECKS, Broken, Check

__all__ = ["CHECKS", "SUITE", "Check", "CheckResult", "assert_conforms", "check_strategy", "strategy_checks"]

SUITE = (checks_contract, checks_forward, checks_gradient, checks_noise, checks_penalty, checks_state, checks_network)
"""The modules whose import fills `CHECKS`."""

Subject = str | Strategy | StrategySpec[Any]


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check at one place.

    `point` is where: `strategy`, an injection point such as `feature`, or one place such as
    `feature at b8.conv0 (8x8)`. `detail` is empty when the check passed, else one sentence.
    """

    name: str
    point: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class StrategyCheck:
    """One check bound to a strategy: call it to run it. pytest shows its `__name__`."""

    check: Check
    strategy: Strategy
    seed: int

    @property
    def __name__(self) -> str:
        return self.check.name

    def __call__(self) -> None:
        """Raises AssertionError when the promise is broken anywhere."""
        _demand(self.strategy, _run_all(self.strategy, self.seed, "cpu", {"builds", self.check.name}))


def check_strategy(subject: Subject, seed: int = 0, device: str = "cpu") -> list[CheckResult]:
    """Run every check that applies to a strategy.

    Args:
        subject: an expression such as `fuzzy(alpha=0.3)`, a `StrategySpec` (with its default parameters), or a
            `Strategy`.
        seed: of all random numbers; the global random states are neither used nor changed.
        device: where injectors are built and run.

    Raises:
        NoiseganError: when the expression cannot be read or names more than one strategy. Nothing else.
    """
    return list(_run_all(resolve(subject), seed, device, set(CHECKS)))


def assert_conforms(subject: Subject, seed: int = 0, device: str = "cpu") -> None:
    """Raises AssertionError listing each failed check in one sentence."""
    strategy = resolve(subject)
    _demand(strategy, check_strategy(strategy, seed, device))


def strategy_checks(subject: Subject, seed: int = 0) -> list[StrategyCheck]:
    """The checks that apply to a strategy, one callable each, for `pytest.mark.parametrize`."""
    strategy = resolve(subject)
    points = set(strategy.spec.points)
    return [
        StrategyCheck(check, strategy, seed)
        for check in CHECKS.values()
        if check.scope == "strategy" or points & set(check.points)
    ]


def resolve(subject: Subject) -> Strategy:
    """The one strategy that is meant."""
    if isinstance(subject, Strategy):
        return subject
    if isinstance(subject, StrategySpec):
        return bind(subject, {})
    found = Plugins().parse(subject)
    if len(found) != 1:
        raise NoiseganError(f"{subject!r} names {len(found)} strategies; check one at a time")
    return found[0]


def _demand(strategy: Strategy, results: Iterator[CheckResult] | list[CheckResult]) -> None:
    failed = [result for result in results if not result.passed]
    if failed:
        lines = "".join(f"\n  {result.name}, {result.point}: {result.detail}" for result in failed)
        raise AssertionError(f"strategy {str(strategy)!r} breaks the contract of noisegan.api:{lines}")


def _run_all(strategy: Strategy, seed: int, device: str, names: set[str]) -> Iterator[CheckResult]:
    """Results in the order of `CHECKS`; an injection point that cannot be built gets no further results."""
    by_point = places(strategy, seed, device)
    unbuilt: set[str] = set()
    for check in CHECKS.values():
        if check.name not in names:
            continue
        for where, run in _occasions(check, strategy, by_point, unbuilt):
            with global_seed(seed % 2**32):  # a strategy that breaks the rules leaves no trace here
                result = _result(check.name, where, run)
            if check.name == "builds" and not result.passed:
                unbuilt.add(where.split(" at ")[0])
            yield result


def _occasions(
    check: Check, strategy: Strategy, by_point: dict[str, list[Place]], unbuilt: set[str]
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Where a check runs, and how."""
    if check.scope == "strategy":
        if not unbuilt:
            yield "strategy", lambda: check.run(strategy)
        return
    for point in check.points:
        found = by_point.get(point, [])
        if check.scope == "point" and found and point not in unbuilt:
            yield point, lambda found=found: check.run(found)  # type: ignore[misc]
        for place in found if check.scope == "place" else []:
            if point not in unbuilt:
                yield str(place), lambda place=place: check.run(place)  # type: ignore[misc]


def _result(name: str, where: str, run: Callable[[], None]) -> CheckResult:
    try:
        run()
    except Broken as broken:
        return CheckResult(name, where, False, str(broken))
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        return CheckResult(name, where, False, f"it raised {type(error).__name__}: {lines[0]}")
    return CheckResult(name, where, True, "")
