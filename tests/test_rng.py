"""Streams: the published Philox, honest distributions, and addresses that nothing can shift."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from noisegan.core.rng import MeanSource, Stream, Streams, StreamSource, as_ids, contained_randomness, initialise
from noisegan.errors import NoiseganError
from noisegan.ext import philox_bits, philox_normal, philox_uniform
from noisegan.ext.philox import philox4x32

MASK = 2**32 - 1


def hexadecimal(words: str) -> list[int]:
    return [int(word, 16) for word in words.split()]


def philox(counter: list[int], key: tuple[int, ...]) -> list[int]:
    """Philox4x32-10 in Python's integers, one block at a time, from Salmon et al. 2011, section 3.3."""
    left_key, right_key = key
    a, b, c, d = counter
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * a, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c, 2**32)
        a, b, c, d = high1 ^ b ^ left_key, low1, high0 ^ d ^ right_key, low0
        left_key, right_key = (left_key + 0x9E3779B9) % 2**32, (right_key + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def block(counter: list[int], key: list[int]) -> list[int]:
    words = philox4x32(tuple(torch.tensor([c]) for c in counter), (key[0], key[1]))  # type: ignore[arg-type]
    return [int(word) for word in words]


def source(name: str = "test", *, seed: int = 0, step: int = 0, ids: object = range(8)) -> StreamSource:
    return Streams(seed)[name].source(step=step, ids=ids)  # type: ignore[arg-type]


# The generator


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, answer: str) -> None:
    assert block(hexadecimal(counter), hexadecimal(key)) == hexadecimal(answer)


def test_philox_agrees_with_plain_integers_on_random_inputs() -> None:
    inputs = np.random.default_rng(0).integers(0, 2**32, size=(200, 6)).tolist()
    for *counter, k0, k1 in inputs:
        assert block(counter, [k0, k1]) == philox(counter, (k0, k1))


def test_bits_are_addressed_by_block_sample_id_and_step() -> None:
    key, step, ids = (123456789, 4000000000), 4123456789, [0, 7, 2**31, 2**32, 2**40 + 12345]
    bits = philox_bits(key, step, torch.tensor(ids), 10, first_block=5)
    for row, i in zip(bits.tolist(), ids, strict=True):
        words = [w for b in (5, 6, 7) for w in philox([b, i & MASK, i >> 32, step], key)]
        assert row == words[:10]


def test_ids_a_multiple_of_two_to_32_apart_get_different_numbers() -> None:
    bits = philox_bits((1, 2), 0, torch.tensor([5, 5 + 2**32, 5 + 2**33]), 4)
    assert len({tuple(row) for row in bits.tolist()}) == 3


def test_uniforms_are_the_upper_24_bits() -> None:
    bits = philox_bits((3, 4), 1, torch.arange(3), 9)
    assert philox_uniform((3, 4), 1, torch.arange(3), 9).tolist() == ((bits >> 8).double() / 2**24).tolist()


def test_normals_are_box_mullers_of_pairs_of_words() -> None:
    bits = philox_bits((3, 4), 1, torch.arange(50), 8).double().numpy().reshape(50, 4, 2)
    radius = np.sqrt(-2 * np.log((bits[..., 0] + 0.5) / 2**32))
    angle = 2 * np.pi * bits[..., 1] / 2**32
    expected = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=-1).reshape(50, 8)
    normals = philox_normal((3, 4), 1, torch.arange(50), 8)
    np.testing.assert_allclose(normals.numpy(), expected, rtol=0, atol=5e-6)
    assert torch.equal(normals[:, :7], philox_normal((3, 4), 1, torch.arange(50), 7))


# Distributions: fixed seeds, so these pass always or never


@pytest.fixture(scope="module")
def normals() -> Tensor:
    return source("moments", ids=range(100)).normal(4000).double()


@pytest.fixture(scope="module")
def uniforms() -> Tensor:
    return source("moments", ids=range(100)).uniform(4000).double()


def test_normals_have_the_moments_of_a_standard_normal(normals: Tensor) -> None:
    x, n = normals.flatten().numpy(), normals.numel()
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(scipy.stats.skew(x)) < 4 * math.sqrt(6 / n)
    assert abs(scipy.stats.kurtosis(x)) < 4 * math.sqrt(24 / n)


def test_normals_pass_kolmogorov_smirnov(normals: Tensor) -> None:
    assert scipy.stats.kstest(normals.flatten().numpy(), "norm").pvalue > 0.01
    assert scipy.stats.kstest(normals.square().sum(dim=1).numpy(), "chi2", args=(4000,)).pvalue > 0.01


def test_normals_are_finite_at_the_extremes_of_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from noisegan.ext import philox as module

    extremes = torch.tensor([[0, 0, 0, MASK], [MASK, 0, MASK, MASK]])
    monkeypatch.setattr(module, "philox_bits", lambda *_, **__: extremes)
    values = module.philox_normal((0, 0), 0, torch.arange(2), 4)
    assert torch.isfinite(values).all()
    assert values.abs().max() == pytest.approx(math.sqrt(2 * 33 * math.log(2)), rel=1e-6)  # -ln of 2^-33


def test_uniforms_have_the_moments_of_a_uniform(uniforms: Tensor) -> None:
    x, n = uniforms.flatten().numpy(), uniforms.numel()
    assert abs(x.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / n)
    assert abs(x.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / n)
    assert abs(scipy.stats.skew(x)) < 0.01
    assert abs(scipy.stats.kurtosis(x) + 6 / 5) < 0.01


def test_uniforms_pass_kolmogorov_smirnov_and_stay_below_one(uniforms: Tensor) -> None:
    assert scipy.stats.kstest(uniforms.flatten().numpy(), "uniform").pvalue > 0.01
    assert 0 <= float(uniforms.min()) < float(uniforms.max()) < 1


@pytest.mark.parametrize("high", [1, 2, 7, 1000])
def test_integers_cover_their_range_evenly(high: int) -> None:
    values = source("integers").integers(high, 20000).flatten()
    counts = torch.bincount(values, minlength=high)
    assert len(counts) == high
    if high > 1:
        assert scipy.stats.chisquare(counts.numpy()).pvalue > 0.01


def test_the_largest_range_of_integers_gives_the_bits_themselves() -> None:
    values = source("integers").integers(2**32, 1000)
    assert 0 <= int(values.min()) < 2**26
    assert 2**32 - 2**26 < int(values.max()) < 2**32


# Independence


def correlation(a: Tensor, b: Tensor) -> float:
    return abs(float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]))


def test_streams_seeds_steps_and_ids_are_uncorrelated() -> None:
    base = source().normal(5000)  # 40,000 numbers: five standard errors are 0.025
    others = {
        "stream": source("other").normal(5000),
        "stream/": source("test/").normal(5000),
        "seed": source(seed=1).normal(5000),
        "step": source(step=1).normal(5000),
        "ids": source(ids=range(8, 16)).normal(5000),
        "high ids": source(ids=range(2**32, 2**32 + 8)).normal(5000),
    }
    for what, numbers in others.items():
        assert correlation(base, numbers) < 0.025, what


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8])
def test_elements_of_a_sample_are_uncorrelated(normals: Tensor, lag: int) -> None:
    assert correlation(normals[:, lag:], normals[:, :-lag]) < 5 / math.sqrt(normals.numel())
    squares = normals.square()  # the two numbers of a Box-Muller pair share a radius
    assert correlation(squares[:, lag:], squares[:, :-lag]) < 5 / math.sqrt(normals.numel())


def test_keys_of_different_names_and_seeds_differ() -> None:
    names = ["z/G", "z/D", "data", "noise/b4.conv1", "noise/b4.conv1/1", "", "1", "1/z"]
    keys = {Stream(seed, name).key for seed in (0, 1, 11, -1, 2**70) for name in names}
    assert len(keys) == 5 * len(names)


def test_keys_are_the_same_in_every_process_and_release() -> None:
    words = source("test", seed=1, ids=[0]).integers(2**32, 4)
    assert words.tolist() == [[193968687, 836860621, 2902087737, 1016087755]]


# Addresses


def test_splitting_a_batch_changes_no_sample() -> None:
    whole = source(ids=range(8)).normal(3, 5)
    parts = [source(ids=ids).normal(3, 5) for ids in (range(3), range(3, 8))]
    assert torch.equal(whole, torch.cat(parts))


def test_numbers_follow_their_id_not_their_place() -> None:
    order = [5, 0, 3, 3]
    assert torch.equal(source(ids=order).uniform(6), source(ids=range(6)).uniform(6)[order])


def test_successive_calls_do_not_overlap() -> None:
    one = source(ids=[3])
    words = torch.cat([one.integers(2**32, n).flatten() for n in (5, 1, 8, 4)])
    assert len(set(words.tolist())) == 18
    mixed = source(ids=[3])
    first, second = mixed.normal(4), mixed.normal(4)
    assert not torch.equal(first, second)


def test_later_calls_of_a_source_do_not_depend_on_the_batch() -> None:
    def second_draw(ids: list[int]) -> Tensor:
        s = source(ids=ids)
        s.normal(7)
        return s.uniform(5)

    assert torch.equal(second_draw([0, 1, 2])[2:], second_draw([2]))


def test_sources_have_shapes_and_dtype_of_the_contract() -> None:
    for s in (source(ids=range(3)), MeanSource(3)):
        assert s.batch == 3
        for draw in (s.normal, s.uniform):
            assert draw().shape == (3,)
            assert draw(0).shape == (3, 0)
            assert draw(2, 5).shape == (3, 2, 5)
            assert draw(2).dtype == torch.float32
    assert source(ids=[]).normal(4).shape == (0, 4)


def test_mean_source_gives_the_mean_of_every_draw() -> None:
    assert torch.equal(MeanSource(2).normal(3), torch.zeros(2, 3))
    assert torch.equal(MeanSource(2).uniform(3), torch.full((2, 3), 0.5))


def test_negative_ids_are_refused_by_value() -> None:
    with pytest.raises(NoiseganError, match="sample ids must be 0 or more, found -2"):
        as_ids([3, -2])


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation_is_one(n: int) -> None:
    order = Streams(0)["data"].permutation(n)
    assert sorted(order.tolist()) == list(range(n))


def test_permutations_of_steps_and_seeds_differ_and_repeat() -> None:
    orders = [Streams(seed)["data"].permutation(50, step=step).tolist() for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[1] == Streams(0)["data"].permutation(50, step=1).tolist()


def test_every_item_of_a_permutation_gets_every_place_equally_often() -> None:
    places = torch.stack([Streams(0)["data"].permutation(4, step=step) for step in range(2000)])
    counts = torch.stack([torch.bincount(column, minlength=4) for column in places.T])
    assert scipy.stats.chisquare(counts.flatten().numpy()).pvalue > 0.01


# Start values


class Dense(nn.Module):
    def __init__(self, std: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(40, 50))
        self.bias = nn.Parameter(torch.full((3,), 7.0))
        self.random_init = {"weight": std}


def test_parameters_of_one_name_start_equal_whatever_else_is_in_the_network() -> None:
    small, large = nn.Module(), nn.Module()
    large.extra = nn.Linear(2, 2)
    large.before = Dense()
    for network in (small, large):
        network.layer = Dense()
        initialise(network, 3, "G")
    assert torch.equal(small.layer.weight, large.layer.weight)
    assert not torch.equal(large.before.weight, large.layer.weight)


def test_initialise_depends_on_seed_prefix_and_deviation_and_leaves_the_rest() -> None:
    def start(seed: int = 0, prefix: str = "G", std: float = 1.0) -> Dense:
        dense = Dense(std)
        initialise(dense, seed, prefix)
        return dense

    base = start()
    assert not torch.equal(base.weight, start(seed=1).weight)
    assert not torch.equal(base.weight, start(prefix="D").weight)
    torch.testing.assert_close(start(std=5).weight, 5 * base.weight)
    assert float(base.weight.detach().std()) == pytest.approx(1, abs=0.05)
    assert base.bias.tolist() == [7, 7, 7]


def test_contained_randomness_restores_the_global_state_and_depends_on_its_name() -> None:
    def draw(seed: int, name: str) -> Tensor:
        with contained_randomness(seed, name):
            return torch.randn(4)

    before = torch.random.get_rng_state()
    first = draw(0, "a")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.randn(3)
    assert torch.equal(draw(0, "a"), first)
    assert not torch.equal(draw(0, "b"), first)
    assert not torch.equal(draw(1, "a"), first)


def test_contained_randomness_restores_the_global_state_after_an_error() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="shape"), contained_randomness(0, "a"):
        torch.randn(4).view(3)
    assert torch.equal(torch.random.get_rng_state(), before)
