"""The kit for manifolds: every check of it catches a manifold that breaks its promise, and says what was wrong."""

from __future__ import annotations

import pytest
import torch
from manifold_mutants import MUTANTS, Mutant

from noisegan.plugins.geometry import Euclidean, assert_manifold, check_manifold, manifold_checks
from noisegan.plugins.geometry.check_tools import CHECKS


def test_mutants_cover_every_check() -> None:
    assert len(CHECKS) >= 18
    assert {mutant.check for mutant in MUTANTS} == set(CHECKS)
    assert all((check.__doc__ or "").endswith(".") for check in CHECKS.values())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.check}-{mutant.fault}")
def test_the_check_catches_its_mutant(mutant: Mutant) -> None:
    check = next(c for c in manifold_checks(mutant.manifold) if c.__name__ == mutant.check)
    with pytest.raises(AssertionError) as caught:
        check()
    assert f"\n  {mutant.check}: " in str(caught.value)
    assert mutant.report in str(caught.value)


def test_results_are_a_list_and_nothing_is_raised() -> None:
    mutant = next(m for m in MUTANTS if m.fault == "ShiftsAtZero")
    results = check_manifold(mutant.manifold)
    assert [result.name for result in results] == list(CHECKS)
    first = next(result for result in results if result.name == "exp_of_zero_is_the_point")
    assert not first.passed
    assert first.detail.startswith("exp(x, 0) is not x: off by ")
    with pytest.raises(AssertionError, match="manifold 'euclidean' of dimension 3 breaks its contract:\n  exp_of_zero"):
        assert_manifold(mutant.manifold, without=[name for name in CHECKS if name != "exp_of_zero_is_the_point"])


def test_a_manifold_that_raises_is_reported() -> None:
    class Broken(Euclidean):
        def log(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError("no log yet")

    detail = {result.name: result.detail for result in check_manifold(Broken(2))}
    assert detail["log_inverts_exp"] == "it raised NotImplementedError: no log yet"
    assert detail["exp_of_zero_is_the_point"] == ""


def test_the_kit_leaves_no_trace_and_refuses_unknown_checks() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert_manifold(Euclidean(2), seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(ValueError, match="there is no check 'exp'; there are describes_itself, "):
        check_manifold(Euclidean(2), without=["exp"])
