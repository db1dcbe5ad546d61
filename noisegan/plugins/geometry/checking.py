"""The check kit: does a manifold keep the promises of `noisegan.plugins.geometry.Manifold`?

    results = check_manifold(MyManifold(dim=3))        # a list of ManifoldResult; a failing check raises nothing
    assert_manifold(MyManifold(dim=3))                 # AssertionError with one sentence per broken promise

In a plugin's own tests, with each check as a test of its own:

    @pytest.mark.parametrize("check", manifold_checks(MyManifold(dim=3)))
    def test_keeps_its_promises(check):
        check()
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from noisegan.plugins.geometry import checks
from noisegan.plugins.geometry.check_tools import CHECKS, Broken, Subject
from noisegan.plugins.geometry.manifold import Manifold

__all__ = ["ManifoldResult", "assert_manifold", "check_manifold", "manifold_checks"]

FILLED_BY = checks
"""The module whose import fills `CHECKS`."""


@dataclass(frozen=True)
class ManifoldResult:
    """Outcome of one check; `detail` is empty when it passed, else one sentence."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class ManifoldCheck:
    """One check bound to a manifold: call it to run it. pytest shows its `__name__`."""

    check: Callable[[Subject], None]
    subject: Subject

    @property
    def __name__(self) -> str:
        return self.check.__name__

    def __call__(self) -> None:
        """Raises AssertionError when the promise is broken."""
        _demand(self.subject.M, [_result(self.check, self.subject)])


def check_manifold(
    M: Manifold, *, without: Collection[str] = (), seed: int = 0, device: str = "cpu", float32_error: float = 1e-5
) -> list[ManifoldResult]:
    """Run every check on a manifold, of a small dimension (up to 20 or so) and with its coordinates last.

    Args:
        M: the manifold.
        without: names of checks to leave out, such as `log_inverts_exp` where log is not offered.
        seed: of the points and vectors; the global random state is neither used nor changed.
        device: where they are.
        float32_error: how far float32 may be from float64, in units of one plus the size of the value.
    """
    return [_result(check, subject) for check, subject in _bound(M, without, seed, device, float32_error)]


def assert_manifold(
    M: Manifold, *, without: Collection[str] = (), seed: int = 0, device: str = "cpu", float32_error: float = 1e-5
) -> None:
    """Raises AssertionError listing each failed check of `check_manifold` in one sentence."""
    _demand(M, check_manifold(M, without=without, seed=seed, device=device, float32_error=float32_error))


def manifold_checks(
    M: Manifold, *, without: Collection[str] = (), seed: int = 0, device: str = "cpu", float32_error: float = 1e-5
) -> list[ManifoldCheck]:
    """The checks of `check_manifold`, one callable each, for `pytest.mark.parametrize`."""
    return [ManifoldCheck(check, subject) for check, subject in _bound(M, without, seed, device, float32_error)]


def _bound(
    M: Manifold, without: Collection[str], seed: int, device: str, float32_error: float
) -> list[tuple[Callable[[Subject], None], Subject]]:
    unknown = set(without) - set(CHECKS)
    if unknown:
        raise ValueError(f"there is no check {min(unknown)!r}; there are {', '.join(CHECKS)}")
    return [(check, Subject(M, seed, device, float32_error)) for name, check in CHECKS.items() if name not in without]


def _demand(M: Manifold, results: list[ManifoldResult]) -> None:
    failed = [result for result in results if not result.passed]
    if failed:
        lines = "".join(f"\n  {result.name}: {result.detail}" for result in failed)
        raise AssertionError(f"manifold {M.name!r} of dimension {M.dim} breaks its contract:{lines}")


def _result(check: Callable[[Subject], None], subject: Subject) -> ManifoldResult:
    try:
        check(subject)
    except Broken as broken:
        return ManifoldResult(check.__name__, False, str(broken))
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        return ManifoldResult(check.__name__, False, f"it raised {type(error).__name__}: {lines[0]}")
    return ManifoldResult(check.__name__, True, "")
