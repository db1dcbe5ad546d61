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
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import noisegan
from noisegan.api import FeatureInjector, NoiseSite, NoiseSource, Params, Strategy, StrategySpec
from noisegan.core.adam import Adam
from noisegan.core.images import to_bytes
from noisegan.core.layers import set_precision
from noisegan.core.noise import StreamNoise
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.inversion import noise as noise_module
from noisegan.inversion import projector as projector_module
from noisegan.inversion.losses import make_loss
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
from noisegan.inversion.spaces import Latents, w_statistics

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
