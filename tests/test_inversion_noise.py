"""The noise of inversions: what keeps the image out of it, which of it is optimised, for every strategy and shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_inversion import MSE, Drawing, drawing, network, samples, strategy
from torch import Tensor, nn

from noisegan.api import LatentInjector, NoiseSite, NoiseSource
from noisegan.core.rng import Streams
from noisegan.inversion.noise import NoiseVariables, describe_noise, frozen_noise
from noisegan.inversion.projector import (
    ProjectorOptions,
    invert,
    schedule,
)
from noisegan.inversion.regulariser import autocorrelation, is_map, renormalised
from noisegan.manager import Plugins

# The regulariser.


def plain_autocorrelation(n: np.ndarray[Any, Any]) -> float:
    """Written from the paper, one map [r, r] in float64."""
    total = 0.0
    while True:
        r = n.shape[0]
        for axis in (0, 1):
            total += (np.sum(n * np.roll(n, 1, axis)) / r**2) ** 2
        if r <= 8:
            return total
        n = 2 * n.reshape(r // 2, 2, r // 2, 2).mean(axis=(1, 3))


def test_the_regulariser_is_the_papers() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 1, 32, 32), (2, 3, 16, 16), (2, 16, 16), (2, 2, 2, 8, 8), (2, 1, 4, 4)]
    noises = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    expected = [
        sum(plain_autocorrelation(m) for n in noises for m in n[i].reshape(-1, *n.shape[-2:]).numpy()) for i in range(2)
    ]
    torch.testing.assert_close(autocorrelation(noises), torch.tensor(expected, dtype=torch.float64))


def test_the_regulariser_on_white_noise_is_what_chance_makes() -> None:
    """Each coefficient is zero on average, with variance 1 / r^2; a stripe is far above."""
    n = Streams(1)["white"].source(ids=range(4000)).normal(1, 16, 16)
    coefficients = (n * n.roll(1, dims=3)).mean(dim=(1, 2, 3))
    assert abs(float(coefficients.mean())) < 4 / 16 / math.sqrt(4000)
    assert float(coefficients.var()) == pytest.approx(1 / 256, rel=0.1)
    values = autocorrelation([n])
    assert float(values.mean()) == pytest.approx(2 / 256 + 2 / 64, rel=0.1)
    stripe = renormalised(n + 3 * torch.sin(torch.arange(16) * math.pi / 4))
    assert float(autocorrelation([stripe]).min()) > 10 * float(values.mean())


def test_a_planted_stripe_is_removed() -> None:
    """Stripes that make two thirds of a map's variance make less than a twentieth after the paper's schedule."""
    white = Streams(2)["white"].source(ids=range(3)).normal(1, 16, 16)
    wave = math.sqrt(2) * torch.sin(torch.arange(16) * math.pi / 4)  # of unit power
    infos = describe_noise(network("additive(strength=0.3)", resolution=16))
    (info,) = (info for info in infos if info.key == "b16.conv1/additive")
    variables = NoiseVariables([info], {info.key: renormalised(white + 1.4 * wave)}, optimise=True)
    leaf = variables.leaves[info.key]

    def share() -> float:
        return float((leaf.detach() * wave).mean(dim=(1, 2, 3)).square().mean())

    before = share()
    adam = torch.optim.Adam([leaf], lr=0.1)
    for step in range(200):
        adam.param_groups[0]["lr"] = 0.1 * schedule(step / 200)[0]
        adam.zero_grad()
        (1e5 * variables.penalty()).sum().backward()
        adam.step()
        variables.renormalise()
    assert before > 0.6
    assert share() < 0.05
    assert float(variables.penalty().detach().max()) < 1e-6  # white noise has 0.04


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 4), (16, 16), (32,), (4, 2, 2)])
def test_renormalised_noise_has_mean_zero_and_variance_one(shape: tuple[int, ...]) -> None:
    noise = renormalised(3 + 2 * Streams(0)["n"].source(ids=range(5)).normal(*shape))
    dims = (-2, -1) if is_map(shape) else tuple(range(1, noise.ndim))
    torch.testing.assert_close(noise.mean(dim=dims), torch.zeros_like(noise.mean(dim=dims)), atol=1e-5, rtol=0)
    torch.testing.assert_close(noise.square().mean(dim=dims), torch.ones_like(noise.mean(dim=dims)))


def test_few_numbers_are_only_kept_from_growing() -> None:
    small, large = torch.tensor([[0.3], [-1.0]]), torch.tensor([[30.0], [-5.0]])
    assert torch.equal(renormalised(small), small)
    torch.testing.assert_close(renormalised(large), torch.tensor([[3.0], [-3.0]]))


# What a strategy draws.


def test_normals_uniforms_and_computed_noise_are_told_apart() -> None:
    def mixed(source: NoiseSource, site: NoiseSite) -> Tensor:
        r = site.resolution
        if site.name == "b4.conv1":
            return torch.cat([source.normal(1, r, r), source.normal(site.channels - 1, r, r)], dim=1).flip(1)
        return source.uniform(1, r, r) if site.name == "b8.conv0" else source.normal(1, r, r).abs()

    infos = {info.key: (info.kind, info.optimised) for info in describe_noise(network(drawing(mixed)))}
    assert infos == {
        "b4.conv1/toy": ("normal", True),
        "b8.conv0/toy": ("uniform", True),
        "b8.conv1/toy": ("derived", False),
    }


def test_noise_without_influence_stays_as_drawn() -> None:
    G = network("additive")  # strength 0
    assert [info.matters for info in describe_noise(G)] == [False] * 3
    (found,) = invert(G, samples(G, 1)[0], ProjectorOptions(steps=5, **MSE))
    frozen = frozen_noise(G, [found.id], mode="optimised", seed=0)
    assert all(torch.equal(found.noise[key], frozen[key][0]) for key in frozen)


def test_uniform_noise_stays_uniform_and_helps() -> None:
    G = network(drawing(lambda source, site: source.uniform(1, site.resolution, site.resolution)))
    target = samples(G, 2)[0]
    found = invert(G, target, ProjectorOptions(steps=60, **MSE))
    values = torch.stack([found[0].noise["b8.conv1/toy"], found[1].noise["b8.conv1/toy"]])
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    assert abs(float(torch.special.ndtri(values).mean())) < 1e-4
    start = frozen_noise(G, [f.id for f in found], mode="optimised", seed=0)["b8.conv1/toy"]
    assert float((values - start).abs().mean()) > 0.05


class OwnRule(Drawing):
    """Noise drawn as absolute values, with a rule of its own."""

    def regularise(self, noise: Tensor) -> Tensor | None:
        return (noise.flatten(1).mean(dim=1) - 0.8).square()

    def renormalise(self, noise: Tensor) -> Tensor | None:
        return noise.abs()


def test_a_strategy_may_say_how_its_noise_is_regularised() -> None:
    G = network(strategy(lambda site: OwnRule(lambda s, at: s.normal(1, at.resolution, at.resolution).abs(), site)))
    assert all(info.kind == "derived" and info.optimised for info in describe_noise(G))
    (found,) = invert(G, samples(G, 1)[0], ProjectorOptions(steps=40, **MSE))
    for value in found.noise.values():
        assert float(value.min()) >= 0
        assert float(value.mean()) == pytest.approx(0.8, abs=0.02)


class PerChannel(LatentInjector):
    """A latent injector with a short vector."""

    def __init__(self, site: NoiseSite) -> None:
        super().__init__()
        self.to_w = nn.Linear(3, site.w_dim)

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(3)

    def forward(self, w: Tensor, noise: Tensor) -> Tensor:
        return w + self.to_w(noise)


@pytest.mark.parametrize("name", [name for name, _ in Plugins(entry_points=False).strategies.items()])
def test_every_built_in_strategy_is_inverted(name: str, plugins: Plugins) -> None:
    """With parameters off their start, so that noise that starts at no strength has some."""
    G = network(name, plugins=plugins)
    generator = torch.Generator().manual_seed(0)
    for parameter in G.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    infos = [info for info in describe_noise(G) if name != "dropout"]  # its masks are drawn, not numbers
    assert all(info.kind == "normal" and info.optimised for info in infos)
    (found,) = invert(G, samples(G, 1)[0], ProjectorOptions(steps=10, **MSE))
    assert found.losses["mse"][-1] < found.losses["mse"][0]
    frozen = frozen_noise(G, [found.id], mode="optimised", seed=0)
    assert all(not torch.equal(found.noise[info.key], frozen[info.key][0]) for info in infos)


@pytest.mark.parametrize(
    "noise",
    [
        "none",
        "additive(per_channel=true, strength=0.1) + fuzzy",
        "additive(strength=0.2, placement=pre-conv)",
        drawing(lambda source, site: source.normal(site.channels, 1, 1)),
        strategy(latent=PerChannel),
    ],
)
def test_every_shape_of_noise_is_inverted(noise: Any) -> None:
    G = network(noise)
    found = invert(G, samples(G, 2)[0], ProjectorOptions(steps=12, **MSE))
    drawn = G.draw_noise("off", 1)
    for one in found:
        assert {key: value.shape for key, value in one.noise.items()} == {k: v.shape[1:] for k, v in drawn.items()}
        assert all(bool(value.isfinite().all()) for value in one.noise.values())
        assert np.isfinite(one.losses["mse"]).all()
        assert one.losses["mse"].shape == (12,)
