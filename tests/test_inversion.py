"""The projector: known answers, its schedule, the noise it optimises and what keeps image out of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import noisegan
from noisegan.api import FeatureInjector, LatentInjector, NoiseSite, NoiseSource, Params, Strategy, StrategySpec
from noisegan.core.adam import Adam
from noisegan.core.images import to_bytes
from noisegan.core.layers import set_precision
from noisegan.core.noise import StreamNoise
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.inversion import noise as noise_module
from noisegan.inversion import projector as projector_module
from noisegan.inversion.losses import make_loss, parse_loss, seen
from noisegan.inversion.noise import NoiseVariables, describe_noise, frozen_noise
from noisegan.inversion.projector import (
    PENALTY,
    Inversion,
    Projector,
    ProjectorOptions,
    content_id,
    digest_id,
    invert,
    schedule,
)
from noisegan.inversion.regulariser import autocorrelation, is_map, renormalised
from noisegan.inversion.spaces import Latents, w_statistics
from noisegan.manager import Plugins

CPU = torch.device("cpu")
MSE = {"loss": "mse"}


def network(noise: Any = "additive(strength=0.3)", **arguments: Any) -> noisegan.Generator:
    sizes = {"resolution": 8, "img_channels": 1, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64}
    G = noisegan.Generator(noise=noise, **sizes | {"channel_max": 8} | arguments)
    return G.eval().requires_grad_(False)


def samples(G: noisegan.Generator, n: int, first: int = 100) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Images of the network with their w and noise, under ids that no inversion uses."""
    ids = range(first, first + n)
    z = Streams(9)["z"].source(ids=ids).normal(G.z_dim).to(G.mapping.w_avg.dtype)
    w, noise = G.mapping(z), G.draw_noise(StreamNoise(Streams(9), ids=ids), n)
    return G.synthesis(w[:, None].expand(-1, G.num_ws, -1), noise), w, noise


def strategy(
    injector: Callable[[NoiseSite], FeatureInjector] | None = None, latent: Any = None
) -> tuple[Strategy, ...]:
    spec = StrategySpec(
        name="toy", params=Params, summary="toy", reference="here", identity_at_init=False,
        feature=None if injector is None else lambda site, p: injector(site),
        latent=None if latent is None else lambda site, p: latent(site),
    )  # fmt: skip
    return (Strategy(spec, Params()),)


class Drawing(FeatureInjector):
    """x + 0.1 noise, with whatever is drawn."""

    def __init__(self, draw: Callable[[NoiseSource, NoiseSite], Tensor], site: NoiseSite) -> None:
        super().__init__()
        self._draw, self.site = draw, site

    def draw(self, source: NoiseSource) -> Tensor:
        return self._draw(source, self.site)

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x + 0.1 * noise


def drawing(draw: Callable[[NoiseSource, NoiseSite], Tensor]) -> tuple[Strategy, ...]:
    return strategy(lambda site: Drawing(draw, site))


# The schedule of Karras et al. 2020, appendix D.


def test_the_schedule_is_the_papers_at_a_thousand_steps() -> None:
    rate = [schedule(i / 1000)[0] for i in range(1000)]
    spread = [schedule(i / 1000)[1] for i in range(1000)]
    assert rate[0] == 0
    assert rate[25] == pytest.approx(0.5)
    assert rate[50:751] == pytest.approx([1.0] * 701)
    assert rate[875] == pytest.approx(0.5)
    assert rate[999] == pytest.approx(0.5 - 0.5 * math.cos(math.pi / 250))
    assert spread[0] == 1
    assert spread[375] == pytest.approx(0.25)
    assert max(spread[750:]) == 0


def test_the_defaults_are_the_papers() -> None:
    options = ProjectorOptions()
    assert (options.steps, options.lr, options.perturbation, options.noise_weight) == (1000, 0.1, 0.05, 1e5)
    assert (options.space, options.noise) == ("w", "optimised")


def test_mean_and_scale_of_w_are_those_of_ten_thousand_latents() -> None:
    G = network()
    found = w_statistics(G, seed=3)
    z = Streams(3)["inversion/w_statistics"].source(ids=range(10_000)).normal(G.z_dim)
    w = G.mapping(z).double()
    mean = w.mean(dim=0)
    torch.testing.assert_close(found.mean.double(), mean, rtol=1e-5, atol=1e-6)
    assert found.scale == pytest.approx(float((w - mean).square().sum(dim=1).mean().sqrt()), rel=1e-5)
    assert float((G.mapping(found.z[None]) - found.mean).norm()) < 0.5 * found.scale


def test_the_optimiser_follows_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []

    class Watched(Adam):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(projector_module, "Adam", Watched)
    G = network("none")
    invert(G, samples(G, 1)[0], ProjectorOptions(steps=20, lr=0.3, **MSE))
    assert rates == pytest.approx([0.3 * schedule(i / 20)[0] for i in range(20)])
    assert rates[0] == 0 < rates[-1] < 0.03
    assert rates[10] == 0.3


@pytest.mark.parametrize("space", ["w", "w+"])
def test_w_is_perturbed_as_the_paper_says(space: str) -> None:
    """With no learning rate w stays at the mean, and what the generator sees beside it is the perturbation."""
    G = network("none")
    mean, seen_ws = w_statistics(G), []
    images, *_ = samples(G, 60)
    spy = G.synthesis.register_forward_pre_hook(lambda module, arguments: seen_ws.append(arguments[0].detach()))
    Projector(G, ProjectorOptions(space=space, steps=20, lr=0, noise="off", **MSE)).run(images)
    spy.remove()
    steps = seen_ws[-20 - 60 : -60]  # each image is rendered alone at the end
    around = torch.stack(steps) - mean.mean  # [steps, N, num_ws, D]
    assert bool((around == around[:, :, :1]).all()) == (space == "w")
    found = around[:, :, 0].flatten(1).std(dim=1)
    expected = torch.tensor([0.05 * mean.scale * max(0.0, 1 - i / 15) ** 2 for i in range(20)])
    torch.testing.assert_close(found[:14], expected[:14], rtol=0.15, atol=0)  # 480 numbers: 5 standard errors
    assert float(around[15:].abs().max()) < 1e-6
    assert float((found[:14] / expected[:14]).mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("space", ["w", "w+", "pti"])
def test_an_encoder_says_where_w_starts(space: str) -> None:
    G = network("none")
    targets, *_ = samples(G, 2)
    encode = lambda images: images.flatten(1)[:, :8]  # noqa: E731
    options = ProjectorOptions(space=space, steps=1, lr=0, pti_steps=1, **MSE)
    for one, target in zip(invert(G, targets, options, encoder=encode), targets, strict=True):
        assert torch.equal(one.w, encode(target[None]).expand(G.num_ws, -1))


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


# Known answers.


def test_own_images_are_found_again_in_w() -> None:
    """With the noise known, w is all there is to find: perceptual distance below 0.001 (mean image: about 0.3)."""
    G = network(img_channels=3)
    targets, _, noise = samples(G, 3)
    options = ProjectorOptions(noise="fixed", steps=250, **MSE)
    found = invert(G, targets, options, noise_start=noise)
    perceptual = make_loss("st-lpips-alex", CPU)
    prepared = perceptual.prepare(targets)
    distance = perceptual(torch.stack([f.image for f in found]), prepared)["st-lpips-alex"]
    mean = G.synthesis(w_statistics(G).mean.expand(3, G.num_ws, -1), noise)
    start = perceptual(mean, prepared)["st-lpips-alex"]
    assert float(distance.max()) < 1e-3
    assert float(start.min()) > 0.05


@pytest.mark.parametrize(("space", "bound"), [("w+", 0.02), ("z", 0.05)])
def test_other_spaces_come_near_too(space: str, bound: float) -> None:
    G = network("none")
    targets, *_ = samples(G, 3)
    found = invert(G, targets, ProjectorOptions(space=space, noise="off", steps=150, **MSE))
    spread = float(targets.var(dim=0).mean())
    assert float(np.mean([f.final["mse"] for f in found])) < bound * spread
    if space == "z":
        assert all(f.z is not None and float(f.z.norm()) == pytest.approx(math.sqrt(8), rel=1e-4) for f in found)
    assert all(torch.equal(f.w[0], f.w[-1]) == (space == "z") for f in found)


def test_pivotal_tuning_brings_a_strange_image_closer_and_leaves_the_network_alone() -> None:
    G = network()
    before = {name: value.clone() for name, value in G.state_dict().items()}
    strange = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    options = ProjectorOptions(space="pti", steps=60, pti_steps=60, pti_lr=3e-3, **MSE)
    (tuned,) = invert(G, strange, options)
    (plain,) = invert(G, strange, dataclasses.replace(options, space="w"))
    assert tuned.final["mse"] < 0.3 * plain.final["mse"]
    assert tuned.losses["tuning/mse"].shape == (60,)
    assert tuned.tuned is not None
    assert tuned.tuned.keys() == dict(G.synthesis.named_parameters()).keys()
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())


def test_images_are_taken_as_they_are_tuned_and_all_steps_count() -> None:
    G = network()
    taken: list[tuple[int, int]] = []
    steps: list[int] = []
    options = ProjectorOptions(space="pti", steps=4, pti_steps=3, **MSE)
    targets, *_ = samples(G, 2)
    projector = Projector(G, options)
    kept = projector.run(targets, progress=steps.append, take=lambda found: taken.append((found.id, steps[-1])))
    assert kept == []
    assert taken == [(content_id(targets[0]), 8 + 3), (content_id(targets[1]), 8 + 6)]
    assert steps == [2, 4, 6, 8, 9, 10, 11, 12, 13, 14]
    assert options.steps_per_image == 7
    (one,) = projector.run(targets[:1])
    assert 0 < one.tuning_seconds < one.seconds
    assert one.losses["tuning/mse"][0] == pytest.approx(
        float((G.synthesis(one.w[None], {k: v[None] for k, v in one.noise.items()})[0] - targets[0]).square().mean())
    )


def test_without_the_regulariser_the_image_leaks_into_the_maps() -> None:
    """A network with strong noise and a constant w has only its noise to show a target with."""
    G = network("additive(strength=0.5)")
    strange = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    options = ProjectorOptions(steps=120, **MSE)
    (kept,), (leaking,) = (
        invert(G, strange, dataclasses.replace(options, noise_weight=weight)) for weight in (1e5, 0.0)
    )
    assert kept.losses[PENALTY][-1] < 1e-3
    assert leaking.losses[PENALTY][-1] > 30 * kept.losses[PENALTY][-1]
    assert leaking.final["mse"] < 0.5 * kept.final["mse"]


# One image at a time or many.


@pytest.mark.parametrize("options", [{}, {"space": "w+"}, {"space": "z", "noise": "fixed"}, {"space": "pti"}])
def test_an_images_result_does_not_depend_on_its_batch(options: dict[str, Any]) -> None:
    """In float64, where rounding does not grow into something: the order, the others and the batch do not matter."""
    G = network("additive(strength=0.3)").double()
    targets, *_ = samples(G, 5)
    chosen = ProjectorOptions(steps=20, pti_steps=6, **MSE, **options)
    projector = Projector(G, chosen)
    alone = [projector.run(target[None])[0] for target in targets]
    together = invert(G, targets.flip(0), chosen, batch=3)[::-1]
    for one, other in zip(alone, together, strict=True):
        assert one.id == other.id
        torch.testing.assert_close(one.w, other.w, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(one.noise, other.noise, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(one.image, other.image, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(one.losses["mse"], other.losses["mse"], rtol=1e-5)
    assert len({one.id for one in alone}) == 5
    assert not torch.equal(alone[0].w, alone[1].w)


def test_the_same_call_gives_the_same_bits() -> None:
    G = network("fuzzy")
    targets, *_ = samples(G, 2)
    first, second = (invert(G, targets, ProjectorOptions(steps=15, **MSE), frames=3) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.w, b.w)
        assert torch.equal(a.image, b.image)
        assert a.frames is not None
        assert b.frames is not None
        assert torch.equal(a.frames, b.frames)
        assert a.frame_steps == [5, 10, 15]
    other = invert(G, targets, ProjectorOptions(steps=15, seed=1, **MSE))
    assert not torch.equal(first[0].w, other[0].w)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler looks at it
def test_a_compiled_network_is_inverted_alike() -> None:
    """Traced without a break; the compiler's front end only, as code generation takes a minute."""
    G = network()
    targets, *_ = samples(G, 2)
    options = ProjectorOptions(steps=5, space="pti", pti_steps=2, **MSE)
    plain = invert(G, targets, options)
    graphs = CompileCounterWithBackend("aot_eager")
    G.synthesis.compile(backend=graphs, fullgraph=True)
    compiled = invert(G, targets, options)
    assert graphs.frame_count > 0
    for a, b in zip(plain, compiled, strict=True):
        assert torch.allclose(a.w, b.w, atol=1e-5)
        assert torch.allclose(a.image, b.image, atol=1e-5)
        assert torch.allclose(a.noise["b8.conv1/additive"], b.noise["b8.conv1/additive"], atol=1e-4)


def test_progress_counts_steps_of_images() -> None:
    G = network("none")
    told: list[tuple[int, int]] = []
    invert(
        G, samples(G, 3)[0], ProjectorOptions(steps=2, **MSE), batch=2, progress=lambda *numbers: told.append(numbers)
    )
    assert told == [(2, 6), (4, 6), (5, 6), (6, 6)]


def test_a_conditional_network_is_inverted_in_w_and_with_a_class_in_z() -> None:
    G = network("none", c_dim=3)
    target = G(torch.randn(1, 8), torch.eye(3)[:1], noise="off")
    (found,) = invert(G, target, ProjectorOptions(steps=3, **MSE))
    assert found.w.shape == (G.num_ws, 8)
    (found,) = invert(G, target, ProjectorOptions(steps=3, space="z", class_index=2, **MSE))
    torch.testing.assert_close(G.mapping(found.z[None], torch.eye(3)[2:]), found.w[:1])  # type: ignore[index]
    with pytest.raises(NoiseganError, match="this network is conditional: give --class 0 to 2"):
        invert(G, target, ProjectorOptions(steps=3, space="z", **MSE))


# Losses.


def test_losses_are_read_and_refused() -> None:
    assert parse_loss("st-lpips-alex") == [("st-lpips-alex", 1.0)]
    assert parse_loss("lpips-vgg=2, mse=0.1") == [("lpips-vgg", 2.0), ("mse", 0.1)]
    with pytest.raises(NoiseganError, match="unknown distance 'lpips' in the loss 'lpips'; did you mean 'lpips-"):
        parse_loss("lpips")
    for text in ("mse=0", "mse=x", "mse=", "mse,mse"):
        with pytest.raises(NoiseganError, match="write each distance once, with a weight above 0"):
            parse_loss(text)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_loss_is_the_weighted_sum_of_its_distances(channels: int) -> None:
    a, b = (Streams(0)[name].source(ids=range(3)).normal(channels, 32, 32).clamp(-1, 1) for name in "ab")
    loss = make_loss("st-lpips-alex=2,mse=0.5", CPU)
    values = loss(a, loss.prepare(b))
    torch.testing.assert_close(loss.total(values), 2 * values["st-lpips-alex"] + 0.5 * values["mse"])
    zero = loss(b, loss.prepare(b))
    assert all(float(value.abs().max()) < 1e-6 for value in zero.values())
    if channels != 4:
        torch.testing.assert_close(values["mse"], (a - b).square().mean(dim=(1, 2, 3)))
    assert str(loss) == "st-lpips-alex=2,mse=0.5"
    assert loss.describe()["st-lpips-alex"]["network"].startswith("alex_shift_tolerant.pth sha256:")


def test_colour_of_what_cannot_be_seen_does_not_matter_and_alpha_does() -> None:
    image = Streams(0)["i"].source(ids=range(1)).normal(4, 8, 8).clamp(-1, 1)
    unseen, other = image.clone(), image.clone()
    unseen[:, 3] = -1
    other[:, 3], other[:, :3] = -1, 0.5
    torch.testing.assert_close(seen(unseen), seen(other))
    loss = make_loss("mse", CPU)
    white, see_through = torch.ones(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    see_through[:, 3] = -1
    assert float(loss(see_through, loss.prepare(white))["mse"]) == pytest.approx(2.0)  # over black 4, over white 0


def test_the_distance_on_its_own_is_that_of_the_extractor() -> None:
    from noisegan.metrics.extractors.st_lpips import load_st_lpips

    a, b = (Streams(0)[name].source(ids=range(2)).normal(3, 32, 32).clamp(-1, 1) for name in "ab")
    loss = make_loss("st-lpips-alex", CPU)
    expected = load_st_lpips(CPU)[0].distance(a, b)
    torch.testing.assert_close(loss(a, loss.prepare(b))["st-lpips-alex"], expected)


def test_small_and_large_images_are_brought_into_the_networks_range() -> None:
    loss = make_loss("st-lpips-alex", CPU)
    for size in (8, 512):
        a, b = (Streams(0)[name].source(ids=range(1)).normal(1, size, size).clamp(-1, 1) for name in "ab")
        assert 0 < float(loss(a, loss.prepare(b))["st-lpips-alex"]) < 5


def test_large_images_are_seen_averaged_down_to_256() -> None:
    loss = make_loss("st-lpips-alex", CPU)
    a, b = (Streams(0)[name].source(ids=range(1)).normal(3, 512, 512).clamp(-1, 1) for name in "ab")
    large = loss(a, loss.prepare(b))["st-lpips-alex"]
    a, b = (F.avg_pool2d(x, 2) for x in (a, b))
    torch.testing.assert_close(large, loss(a, loss.prepare(b))["st-lpips-alex"])


# Refusals.


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"space": "w++"}, "space 'w++' is unknown: choose w, w+, z, pti"),
        ({"noise": "on"}, "noise 'on' is unknown: choose off, fixed, optimised"),
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"lr": math.nan}, "lr must be a finite number of 0 or more, not nan"),
        ({"noise_weight": -1.0}, "noise_weight must be a finite number of 0 or more, not -1.0"),
    ],
)
def test_options_without_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        ProjectorOptions(**options)
    assert str(caught.value) == sentence


def test_targets_that_do_not_fit_are_refused() -> None:
    G = network("none")
    for shape in ((1, 3, 8, 8), (1, 1, 16, 16), (0, 1, 8, 8), (1, 8, 8)):
        with pytest.raises(NoiseganError, match=r"targets must be \[N, 1, 8, 8\], got"):
            invert(G, torch.zeros(shape), ProjectorOptions(steps=1, **MSE))
    with pytest.raises(NoiseganError, match="targets hold values that are not finite"):
        Projector(G, ProjectorOptions(steps=1, **MSE)).run(torch.full((1, 1, 8, 8), math.nan))


def test_a_loss_that_is_not_finite_is_told() -> None:
    G = network("none")
    with pytest.raises(NoiseganError, match="an inversion's loss is not finite"):
        invert(G, samples(G, 1)[0], ProjectorOptions(steps=30, lr=1e30, **MSE))
    with pytest.raises(NoiseganError, match="the loss of a tuned generator is not finite: lower --pti-lr"):
        invert(G, samples(G, 1)[0], ProjectorOptions(steps=1, space="pti", pti_lr=1e30, pti_steps=3, **MSE))


def test_an_encoder_is_for_w_only() -> None:
    G = network("none")
    start = w_statistics(G)
    with pytest.raises(NoiseganError, match="an encoder starts in w"):
        Latents(G, "z", 1, start, start=start.mean[None])


def test_an_inversion_names_itself_by_content() -> None:
    image = torch.zeros(1, 8, 8)
    assert content_id(image) == content_id(image.clone())
    assert content_id(image) != content_id(image + 0.1)
    assert 0 <= content_id(image) < 2**62
    assert content_id(image) == digest_id(sha256(to_bytes(image).numpy().tobytes()).hexdigest())
    assert Inversion.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert noise_module.NOISES == ("off", "fixed", "optimised")


def test_low_precision_computes_low_and_tells_in_full() -> None:
    """Blocks and distances compute in bfloat16; what comes out is near, and its distances are those in float32."""
    G = network("additive(strength=0.3)", resolution=32, img_channels=3)
    targets, *_ = samples(G, 2)
    options = ProjectorOptions(steps=8)
    full = invert(G, targets, options)
    set_precision(G, torch.bfloat16)
    low = invert(G, targets, options)
    loss = make_loss("st-lpips-alex", CPU)
    for a, b, target in zip(full, low, targets, strict=True):
        assert not torch.equal(a.w, b.w)
        assert b.w.dtype == b.image.dtype == torch.float32
        assert b.losses["st-lpips-alex"][-1] == pytest.approx(a.losses["st-lpips-alex"][-1], rel=0.2)
        told = loss(b.image[None], loss.prepare(target[None]))["st-lpips-alex"]
        assert b.final["st-lpips-alex"] == pytest.approx(float(told[0]), rel=1e-4)
