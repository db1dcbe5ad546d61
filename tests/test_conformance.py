"""The suite accepts what keeps the contract, and every check of it catches a strategy that does not."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from mutants import MUTANTS, Mutant
from toys import CONFORMING, ToyFeature, toy

from noisegan.api import Strategy, StrategySpec
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins
from noisegan.testing import CHECKS, assert_conforms, check_strategy, strategy_checks
from noisegan.testing.places import global_state

BUILT_IN = Plugins(entry_points=False)
VARIANTS = (
    "additive(per_channel=true)",
    "additive(per_channel=true, strength=0.3)",
    "additive(strength=-0.5)",
    "fuzzy(form=additive)",
    "fuzzy(form=additive, alpha=1, gain=0)",
    "geodesic(manifold=euclidean)",
    "geodesic(manifold=poincare_ball, sigma=per-channel)",
    "geodesic(manifold='sphere(dim=1)', sigma=from-features, noise=shared)",
    "geodesic(manifold=hyperboloid, sigma=spatial, group=2, scale=unit, radius=0.5, strength=0.3)",
    "geodesic(manifold='torus(dim=1)', strength=0.3)",
    "geodesic(manifold=so, strength=0.3)",
    "geodesic(manifold=spd_affine, strength=0.3)",
    "geodesic(manifold=spd_logeuclidean, strength=0.3)",
    "geodesic(manifold=spd_bures, strength=0.3)",
    "geodesic(manifold='stiefel(n=2, p=1)', strength=0.3)",
    "geodesic(manifold='product(sphere(dim=1), poincare_ball(dim=2))', strength=0.3)",
    "geodesic(manifold='grassmannian(n=3, p=1)', strength=0.3)",
    "normal_coordinates(manifold='sphere(dim=2)', strength=0.3)",
    "normal_coordinates(manifold=hyperboloid, group=2, sigma=shared, scale=unit, radius=0.5)",
    "normal_coordinates(manifold=euclidean)",
    "instance(start=0.5, end=0.05, until=0.5, schedule=exponential, unit=contrast)",
    "instance(schedule=cosine)",
    "instance(start=0.2, schedule=constant, unit=contrast)",
    "filtering(width=3, power=0.1, strength=0)",
    "roth(f_divergence=gan, schedule=constant)",
    "roth(f_divergence=kl, start=0.5, end=0, schedule=cosine)",
    "roth(f_divergence=reverse_kl)",
    "roth(f_divergence=pearson, start=0.1, end=0, schedule=linear, until=0.5)",
    "roth(f_divergence=squared_hellinger)",
    "multiplicative(unit=channel, per_channel=true)",
    "multiplicative(unit=element, strength=-1)",
    "dropout(rate=0.2, unit=channel)",
    "dropout(unit=pixel)",
    "coloured(exponent=-3.5, strength=2)",
    "anisotropic(rank=1, strength=0.5)",
    "warp(smoothness=0.5, strength=-1)",
    "learned_metric(kind=diagonal)",
    "learned_metric(kind=low-rank, hidden=3, rank=2)",
    "learned_metric(kind=pullback, smoothing=0.5, strength=0.5)",
    "latent_chunks(chunk=1)",
)


@pytest.mark.parametrize("name", sorted(BUILT_IN.strategies))
def test_built_in_strategies_conform(name: str) -> None:
    assert_conforms(name)


@pytest.mark.parametrize("expression", VARIANTS)
def test_parameter_variants_conform(expression: str) -> None:
    assert_conforms(expression)


def test_the_lists_are_not_empty() -> None:
    assert BUILT_IN.strategies
    assert len(CHECKS) >= 25
    assert all(check.promise.endswith(".") for check in CHECKS.values())


def test_mutants_cover_every_check() -> None:
    assert {mutant.check for mutant in MUTANTS} == set(CHECKS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.check}-{mutant.fault}")
def test_the_check_catches_its_mutant(mutant: Mutant) -> None:
    check = next(c for c in strategy_checks(mutant.spec) if c.__name__ == mutant.check)
    with pytest.raises(AssertionError) as caught:
        check()
    lines = [line for line in str(caught.value).splitlines() if line.startswith(f"  {mutant.check}, ")]
    assert lines, f"the report has no line of {mutant.check}: {caught.value}"
    assert any(mutant.report in line for line in lines), str(caught.value)


@pytest.mark.parametrize("point", CONFORMING)
def test_toys_conform_and_every_applicable_check_runs_at_every_place(point: str) -> None:
    spec = CONFORMING[point]
    results = check_strategy(spec)
    assert [result for result in results if not result.passed] == []
    wanted = {c.name for c in CHECKS.values() if c.scope == "strategy" or set(c.points) & set(spec.points)}
    assert {result.name for result in results} == wanted
    assert len({(result.name, result.point) for result in results}) == len(results)
    for kind in spec.points:
        built = [result.point for result in results if result.name == "builds" and result.point.startswith(kind)]
        assert len(built) >= 2


def test_results_say_where_and_why() -> None:
    mutant = next(m for m in MUTANTS if m.fault == "AddsAChannel")
    failed = [result for result in check_strategy(mutant.spec) if not result.passed]
    first = next(result for result in failed if result.name == "forward_keeps_shape_and_dtype")
    assert first.point == "feature at b4.conv1 (4x4)"
    assert first.detail == "forward in torch.float32 returned shape [3, 4, 4, 4], expected [3, 3, 4, 4]"


def test_a_point_that_cannot_be_built_is_reported_once_per_place() -> None:
    mutant = next(m for m in MUTANTS if m.fault == "FactoryRaises")
    results = check_strategy(mutant.spec)
    assert {result.name for result in results if not result.passed} == {"builds"}
    assert results[0].detail == "building it raised KeyError: 'b4.conv1'"


def test_faults_raise_nothing_and_leave_the_global_randomness() -> None:
    torch.manual_seed(1)
    random.seed(1)
    before = global_state()
    for fault in ("DrawsFromNumpy", "BuiltWithRandom", "RandomInForward", "DrawsFromTorch"):
        mutant = next(m for m in MUTANTS if m.fault == fault)
        with pytest.raises(AssertionError):
            next(c for c in strategy_checks(mutant.spec) if c.__name__ == mutant.check)()
    assert global_state() == before


def test_subjects_and_seeds() -> None:
    spec: StrategySpec[Any] = toy(feature=lambda site, p: ToyFeature(site, p.strength))
    strategy = Strategy(spec, spec.params(strength=2))
    assert check_strategy(spec, seed=0) == check_strategy(strategy, seed=2**40)  # all passed, at the same places
    with pytest.raises(NoiseganError, match="did you mean 'fuzzy'"):
        check_strategy("fuzy")
    with pytest.raises(NoiseganError, match=r"'none\+fuzzy' names 2 strategies; check one at a time"):
        check_strategy("none+fuzzy")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", sorted(BUILT_IN.strategies))
def test_built_in_strategies_conform_on_the_gpu(name: str) -> None:
    assert_conforms(name, device="cuda")
