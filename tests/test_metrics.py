"""Metrics against their definitions, written as naive loops, and against laws that their papers state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from noisegan.api import FeaturePair, Metric
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins
from noisegan.metrics import frechet, kernel_distance, neighbours
from noisegan.metrics.frechet import frechet_distance, mean_and_factor
from noisegan.metrics.neighbours import Neighbourhoods, neighbourhoods

NAMES = ("fd", "kid", "precision", "recall", "density", "coverage")


def normal(name: str, n: int, *shape: int) -> Tensor:
    return Streams(7)[name].source(ids=range(n)).normal(*shape)


def fd(real: Tensor, fake: Tensor) -> float:
    return frechet_distance(FeaturePair(real, fake)).value


def kid(real: Tensor, fake: Tensor) -> float:
    return kernel_distance.kernel_distance(FeaturePair(real, fake)).value


def with_moments(n: int, mean: list[float], covariance: list[list[float]]) -> Tensor:
    """n points of exactly this mean and unbiased covariance, float64."""
    x = normal("moments", n, len(mean)).double()
    x = x - x.mean(dim=0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (n - 1)), x.T, upper=False).T
    return x @ torch.linalg.cholesky(torch.tensor(covariance).double()).T + torch.tensor(mean).double()


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metrics(plugins: Plugins) -> dict[str, Metric]:
    return {name: metric for name, (metric, _) in plugins.registered["metric"].items() if name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_each_metric_says_what_it_is_and_gives_a_plain_number(metrics: dict[str, Metric], name: str) -> None:
    metric = metrics[name]
    assert metric.better == ("lower" if name in ("fd", "kid") else "higher")
    assert metric.title
    assert metric.reference
    score = metric.compute(FeaturePair(normal("a", metric.minimum, 3), normal("b", metric.minimum, 3)))
    assert type(score.value) is float
    assert math.isfinite(score.value)
    assert (type(score.std_error) is float) == (name == "kid")


@pytest.mark.parametrize("name", NAMES)
def test_fewer_images_than_the_minimum_are_refused(metrics: dict[str, Metric], name: str) -> None:
    metric = metrics[name]
    few, enough = normal("a", metric.minimum - 1, 3), normal("b", 9, 3)
    for pair in (FeaturePair(few, enough), FeaturePair(enough, few)):
        with pytest.raises(NoiseganError, match=f"at least {metric.minimum} real and {metric.minimum} generated"):
            metric.compute(pair)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(metrics: dict[str, Metric], name: str, bad: float) -> None:
    spoiled = normal("a", 9, 3)
    spoiled[4, 1] = bad
    for pair in (FeaturePair(spoiled, normal("b", 9, 3)), FeaturePair(normal("b", 9, 3), spoiled)):
        with pytest.raises(NoiseganError, match="not finite; look at the images and the feature extractor"):
            metrics[name].compute(pair)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_images_and_the_blocks_do_not_matter(
    metrics: dict[str, Metric], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fake = normal("a", 53, 5) + 3, normal("b", 47, 5) * 1.2 + 3
    expected = metrics[name].compute(FeaturePair(real, fake))
    monkeypatch.setattr(kernel_distance, "BLOCK", 7)
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    score = metrics[name].compute(FeaturePair(real.flip(0), fake.roll(11, 0)))
    assert score.value == pytest.approx(expected.value, rel=1e-9)
    if expected.std_error is not None:
        assert score.std_error == pytest.approx(expected.std_error, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_rotating_real_and_generated_features_together_changes_nothing(metrics: dict[str, Metric], name: str) -> None:
    rotation = torch.linalg.qr(normal("rotation", 5, 5).double()).Q
    real, fake = normal("a", 40, 5).double(), normal("b", 60, 5).double() + 0.3
    turned = metrics[name].compute(FeaturePair(real @ rotation, fake @ rotation)).value
    assert turned == pytest.approx(metrics[name].compute(FeaturePair(real, fake)).value, rel=1e-9)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "kid"])  # KID's kernel knows where the origin is
def test_moving_real_and_generated_features_together_changes_nothing(metrics: dict[str, Metric], name: str) -> None:
    real, fake = normal("a", 40, 5).double(), normal("b", 60, 5).double() + 0.3
    moved = metrics[name].compute(FeaturePair(real + 5, fake + 5)).value
    assert moved == pytest.approx(metrics[name].compute(FeaturePair(real, fake)).value, rel=1e-9)


# --- Fréchet distance -------------------------------------------------------------------------------------------------


def test_fd_of_isotropic_gaussians() -> None:
    """|μ₁ - μ₂|² + dim (σ₁ - σ₂)²."""
    real = with_moments(50, [0, 0, 0], [[4, 0, 0], [0, 4, 0], [0, 0, 4]])
    fake = with_moments(70, [1, 2, -2], [[9, 0, 0], [0, 9, 0], [0, 0, 9]])
    assert fd(real, fake) == pytest.approx(9 + 3 * (3 - 2) ** 2, rel=1e-12)


def test_fd_of_commuting_covariances() -> None:
    """tr (S₁^½ - S₂^½)² when both have the same eigenvectors."""
    real, fake = with_moments(50, [0, 0], [[2, 1], [1, 2]]), with_moments(50, [0, 0], [[5, 4], [4, 5]])
    assert fd(real, fake) == pytest.approx((math.sqrt(3) - math.sqrt(9)) ** 2 + (1 - 1) ** 2, rel=1e-12)


def with_matrix_root(real: Tensor, fake: Tensor) -> float:
    """The textbook: covariances and scipy's root of their product."""
    x, y = real.double().numpy(), fake.double().numpy()
    s1, s2 = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(root))


def test_fd_is_the_textbook_value() -> None:
    mix = normal("mix", 6, 6)
    real, fake = normal("a", 80, 6), normal("b", 50, 6) @ mix + 0.5
    assert fd(real, fake) == pytest.approx(with_matrix_root(real, fake), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(5, 7), (5, 40), (40, 5), (8, 8), (9, 8), (2, 2)])
def test_fd_with_fewer_images_than_dimensions(n: int, m: int) -> None:
    """Singular covariances: a root of their product need not exist for sqrtm; eigenvalues of it do."""
    real, fake = normal("a", n, 8), normal("b", m, 8) + 1
    s1, s2 = np.cov(real.double().numpy().T), np.cov(fake.double().numpy().T)
    cross = np.sqrt(np.clip(np.linalg.eigvals(s1 @ s2).real, 0, None)).sum()
    means = (real.double().mean(0) - fake.double().mean(0)).square().sum().item()
    assert fd(real, fake) == pytest.approx(means + np.trace(s1) + np.trace(s2) - 2 * cross, rel=1e-6)  # eps^½: S₁ S₂


def test_both_factors_give_one_fd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The triangle for many images against the centred data themselves."""
    real, fake = normal("a", 60, 6), normal("b", 30, 6) * 1.3 + 0.2
    expected = fd(real, fake)
    shapes = []

    def centred(features: Tensor) -> tuple[Tensor, Tensor]:
        mean = features.double().mean(dim=0)
        shapes.append(mean_and_factor(features)[1].shape)
        return mean, (features.double() - mean) / math.sqrt(len(features) - 1)

    monkeypatch.setattr(frechet, "mean_and_factor", centred)
    assert fd(real, fake) == pytest.approx(expected, rel=1e-12)
    assert shapes == [(6, 6), (6, 6)]


@pytest.mark.parametrize("n", [4, 40])
def test_fd_of_a_set_with_itself_is_zero(n: int) -> None:
    x = normal("a", n, 8) * 10 + 100
    assert 0 <= fd(x, x) < 1e-9
    assert 0 <= fd(x, x.flip(0)) < 1e-9
    constant = torch.ones(n, 8)
    assert fd(constant, constant) == 0


def test_fd_is_symmetric_and_scales_like_a_squared_distance() -> None:
    real, fake = normal("a", 30, 5), normal("b", 20, 5) + 1
    assert fd(real, fake) == pytest.approx(fd(fake, real), rel=1e-12)
    assert fd(3 * real.double(), 3 * fake.double()) == pytest.approx(9 * fd(real, fake), rel=1e-12)


# --- kernel distance --------------------------------------------------------------------------------------------------


def naive_kid(real: Tensor, fake: Tensor) -> float:
    x, y = real.double().tolist(), fake.double().tolist()

    def k(a: list[float], b: list[float]) -> float:
        return (sum(s * t for s, t in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    def within(z: list[list[float]]) -> float:
        return mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])

    return within(x) + within(y) - 2 * mean([k(a, b) for a in x for b in y])


def test_kid_is_its_double_sum() -> None:
    real, fake = normal("a", 11, 4) + 1, normal("b", 8, 4) * 2
    assert kid(real, fake) == pytest.approx(naive_kid(real, fake), rel=1e-12)


def test_variances_of_the_kernel_are_those_of_tables_centred_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal("a", 9, 3).double(), normal("b", 6, 3).double() + 0.4
    monkeypatch.setattr(kernel_distance, "BLOCK", 4)

    table = ((x @ y.T) / 3 + 1) ** 3
    centred = table - table.mean(1, keepdim=True) - table.mean(0, keepdim=True) + table.mean()
    between = kernel_distance._between(x, y).between_variance()
    assert between == pytest.approx((centred.square().sum() / (8 * 5)).item(), rel=1e-12)

    table = (((x @ x.T) / 3 + 1) ** 3).fill_diagonal_(0)
    rows = table.sum(1, keepdim=True) / 7
    centred = (table - rows - rows.T + table.sum() / (8 * 7)).fill_diagonal_(0)
    torch.testing.assert_close(centred.sum(1), torch.zeros(9, dtype=torch.float64))  # what U-centring is for
    within = kernel_distance._within(x).within_variance()
    assert within == pytest.approx((centred.square().sum() / (9 * 6)).item(), rel=1e-12)


def test_the_variance_of_kid_is_unbiased() -> None:
    """Exactly, over all samples that two distributions on two points each can give."""
    x_points, y_points = torch.tensor([[0.0, 1.0], [1.5, -0.5]]), torch.tensor([[0.5, 0.5], [-1.0, 1.0]])
    weights, values, variances = [], [], []
    for x in itertools.product((0, 1), repeat=4):
        for y in itertools.product((0, 1), repeat=5):
            pair = FeaturePair(x_points[list(x)], y_points[list(y)])
            weights.append(0.3 ** sum(x) * 0.7 ** (4 - sum(x)) * 0.6 ** sum(y) * 0.4 ** (5 - sum(y)))
            values.append(kernel_distance.kernel_distance(pair).value)
            tables = kernel_distance._within(pair.real), kernel_distance._within(pair.fake)
            variances.append(sum(kernel_distance._variance(*tables, kernel_distance._between(pair.real, pair.fake))))
    mean = np.average(values, weights=weights)
    variance = np.average((np.array(values) - mean) ** 2, weights=weights)
    assert np.average(variances, weights=weights) == pytest.approx(variance, rel=1e-10)


def kid_draws(draw: Callable[[int], tuple[Tensor, Tensor]], n: int = 800) -> tuple[Any, Any]:
    scores = [kernel_distance.kernel_distance(FeaturePair(*draw(i))) for i in range(n)]
    return np.array([s.value for s in scores]), np.array([s.std_error for s in scores])


def test_kid_of_equal_distributions_is_zero_on_average_and_its_error_is_known() -> None:
    values, errors = kid_draws(lambda i: (normal(f"a{i}", 40, 8), normal(f"b{i}", 60, 8)))
    assert abs(values.mean()) < 3 * values.std(ddof=1) / math.sqrt(len(values))
    assert (values < 0).any()
    assert 0.9 < errors.mean() / values.std(ddof=1) < 1.25  # 1.13: negative variances are taken for zero


def test_the_error_of_kid_is_right_for_unequal_distributions_and_numbers() -> None:
    values, errors = kid_draws(lambda i: (normal(f"a{i}", 60, 4), normal(f"b{i}", 40, 4) * 1.1 + 0.5))
    assert 0.85 < np.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.15


# --- neighbourhoods ---------------------------------------------------------------------------------------------------


def naive_neighbourhoods(real: Tensor, fake: Tensor) -> Neighbourhoods:
    x, y = real.double().tolist(), fake.double().tolist()

    def radius(points: list[list[float]], i: int, k: int) -> float:
        return sorted(math.dist(points[i], other) for j, other in enumerate(points) if j != i)[k - 1]

    def inside(point: list[float], points: list[list[float]], k: int) -> list[bool]:
        return [math.dist(point, center) <= radius(points, i, k) for i, center in enumerate(points)]

    dense = [inside(b, x, 5) for b in y]  # generated x real
    return Neighbourhoods(
        precision=sum(any(inside(b, x, 3)) for b in y) / len(y),
        recall=sum(any(inside(a, y, 3)) for a in x) / len(x),
        density=sum(map(sum, dense)) / (5 * len(y)),
        coverage=sum(map(any, zip(*dense, strict=True))) / len(x),
    )


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_neighbourhoods_are_those_of_naive_loops(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 8)
    real, fake = normal("a", 30, 3), normal("b", 21, 3) * 0.8 + shift
    found = neighbourhoods(FeaturePair(real, fake))
    assert found == naive_neighbourhoods(real, fake)
    assert found.density > 0
    assert found.recall < 1


def test_ties_and_duplicates_count_as_inside_closed_balls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers far from the origin: exact for the loops, ties everywhere, and rounding in the products."""
    monkeypatch.setattr(neighbours, "BLOCK", 16)
    grid = torch.cartesian_prod(*[torch.arange(5.0)] * 2).repeat(2, 1) + 1000  # each point twice
    fake = torch.cartesian_prod(torch.arange(3.0), torch.arange(9.0)) + 1000
    assert neighbourhoods(FeaturePair(grid, fake)) == naive_neighbourhoods(grid, fake)
    same = torch.full((8, 3), 0.1)
    assert neighbourhoods(FeaturePair(same, same)) == Neighbourhoods(1, 1, 8 / 5, 1)
    assert neighbourhoods(FeaturePair(same, same + 1e-3)) == Neighbourhoods(0, 0, 0, 0)


def test_ties_need_their_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.cat([normal("a", 6, 64)] * 6)
    assert neighbourhoods(FeaturePair(real, real)).precision == 1
    monkeypatch.setattr(neighbours, "TIE", -1e-15)  # the size of rounding
    assert neighbourhoods(FeaturePair(real, real)).precision < 1


def test_equal_sets_and_equal_distributions() -> None:
    x, y = normal("a", 400, 4), normal("b", 400, 4)
    assert neighbourhoods(FeaturePair(x, x)) == Neighbourhoods(1, 1, 6 / 5, 1)  # each ball: its centre and k others
    found = neighbourhoods(FeaturePair(x, y))
    assert found.density == pytest.approx(1, abs=0.1)
    assert found.coverage == pytest.approx(
        1 - 0.5**5, abs=0.03
    )  # Naeem et al. 2020, lemma on its expectation, many images
    assert min(found.precision, found.recall) > 0.8


def test_far_apart_sets_share_nothing() -> None:
    assert neighbourhoods(FeaturePair(normal("a", 50, 4), normal("b", 50, 4) + 100)) == Neighbourhoods(0, 0, 0, 0)


def test_a_generator_of_one_mode_out_of_two_covers_half() -> None:
    modes = torch.tensor([[0.0] * 4, [50.0] * 4])
    real = normal("a", 400, 4) + modes[torch.arange(400) % 2]
    found = neighbourhoods(FeaturePair(real, normal("b", 400, 4)))
    assert found.precision > 0.8
    assert found.recall == pytest.approx(0.5, abs=0.05)
    assert found.coverage == pytest.approx(0.5, abs=0.05)
    swapped = neighbourhoods(FeaturePair(normal("b", 400, 4), real))
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)


def test_the_four_share_one_computation(metrics: dict[str, Metric], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = neighbours._squared_radii
    monkeypatch.setattr(neighbours, "_squared_radii", lambda x: (calls.append(len(x)), original(x))[1])
    pair = FeaturePair(normal("a", 20, 3), normal("b", 10, 3))
    scores = [metrics[name].compute(pair).value for name in ("precision", "recall", "density", "coverage")]
    assert calls == [20, 10]
    expected = naive_neighbourhoods(pair.real, pair.fake)
    assert scores == [expected.precision, expected.recall, expected.density, expected.coverage]
