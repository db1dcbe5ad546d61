"""Distribution filtering: the noise network in SciPy, the coin, the price, and which way training moves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.signal import correlate2d
from test_resume import resumed_equals_unbroken
from torch import Tensor
from training import SMALL

import noisegan
from noisegan.api import ImageSite
from noisegan.core.checkpoint import snapshots
from noisegan.core.losses import discriminator_loss
from noisegan.core.rng import MeanSource, Streams
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins
from noisegan.plugins.filtering import LearnedNoise, scales

Array = NDArray[np.float64]
SITE = ImageSite(resolution=8, channels=2)


def normal(name: str, *shape: int) -> Tensor:
    return Streams(7)[name].source(ids=range(shape[0])).normal(*shape[1:]).double()


X = torch.tanh(normal("x", 4, 2, 8, 8))


def injector(plugins: Plugins, expression: str, moved: bool = False, site: ImageSite = SITE) -> LearnedNoise:
    (strategy,) = plugins.parse(expression)
    assert strategy.spec.image is not None
    torch.manual_seed(3)
    module = strategy.spec.image(site, strategy.params).double()
    assert isinstance(module, LearnedNoise)
    if moved:
        with torch.no_grad():
            for name, p in module.named_parameters():
                p += 0.3 * normal(f"move/{name}", 1, *p.shape)[0]
    return module


def drawn(module: LearnedNoise, n: int = 4, step: int = 0) -> Tensor:
    return module.draw(Streams(7)["noise"].source(step=step, ids=range(n))).double()


# the noise network


def convolve(x: Array, weight: Array, bias: Array) -> Array:
    """Sum over input channels of 3 x 3 correlations of the same size, weights over sqrt(fan in)."""
    w = weight / np.sqrt(weight[0].size)
    return np.stack(
        [
            sum(correlate2d(plane, kernel, mode="same") for plane, kernel in zip(x, kernels, strict=True)) + b
            for kernels, b in zip(w, bias, strict=True)
        ]
    )


def network(noise: Array, p: dict[str, Array], resolutions: tuple[int, ...], channels: int) -> Array:
    """One image's N(e; theta), from its numbers without the coin."""
    h = np.zeros((0, 0, 0))
    used = 0
    for i, r in enumerate(resolutions):
        e = noise[used : used + channels * r * r].reshape(channels, r, r)
        used += e.size
        x = e if i == 0 else np.concatenate((np.kron(h, np.ones((1, 2, 2))), e))
        z = convolve(x, p[f"layers.{i}.weight"], p[f"layers.{i}.bias"])
        h = 1.68 * z / (1 + np.exp(-z))
    assert used == noise.size
    return 2 * np.tanh(p["strength"] * convolve(h, p["to_image.weight"], p["to_image.bias"]) / 2)


@pytest.mark.parametrize("site", [SITE, ImageSite(resolution=16, channels=1), ImageSite(resolution=4, channels=3)])
def test_noise_coin_and_price_are_their_formulas(plugins: Plugins, site: ImageSite) -> None:
    module = injector(plugins, "filtering(width=3, power=2.5)", moved=True, site=site)
    p = {name: value.detach().numpy() for name, value in module.named_parameters()}
    images = torch.tanh(normal("images", 12, site.channels, site.resolution, site.resolution))
    noise = drawn(module, 12)
    resolutions = {4: (4,), 8: (4, 8), 16: (4, 8, 16)}[site.resolution]
    made = np.stack([network(row[1:], p, resolutions, site.channels) for row in noise.numpy()])
    coin = (noise.numpy()[:, 0] < 0.5)[:, None, None, None]
    assert coin.any()
    assert not coin.all()
    np.testing.assert_allclose(module(images, noise).detach().numpy(), images.numpy() + coin * made, atol=1e-12)
    price = 2.5 * (made**2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(module.penalty(images, noise).detach().numpy(), price, rtol=1e-12)


def test_scales_halve_down_to_four() -> None:
    assert scales(64) == (4, 8, 16, 32, 64)
    assert scales(12) == (6, 12)
    assert scales(4) == (4,)
    assert scales(3) == (3,)


def test_a_new_network_makes_noise_of_the_strength_asked_for(plugins: Plugins) -> None:
    """Over many starts; zeros beyond the border cost small maps some of it."""
    squares = []
    for seed in range(20):
        torch.manual_seed(seed)
        module = LearnedNoise(ImageSite(resolution=16, channels=3), power=1, strength=0.1, width=16)
        squares.append(module.noise(drawn(module.double())).square().mean().item())
    assert 0.06 < np.sqrt(np.mean(squares)) < 0.1


def test_noise_fills_image_space(plugins: Plugins) -> None:
    """The covariance of many draws has full rank: the filtered distributions have a support of full dimension."""
    module = injector(plugins, "filtering(width=4)", site=ImageSite(resolution=8, channels=1))
    made = module.noise(drawn(module, 400)).detach().flatten(1)
    assert torch.linalg.matrix_rank(made - made.mean(dim=0)) == 64


def test_noise_stays_below_its_bound(plugins: Plugins) -> None:
    made = injector(plugins, "filtering(strength=10)").noise(drawn(injector(plugins, "filtering")))
    assert 1.5 < made.abs().max().item() <= 2


# clean and noisy


def test_half_of_the_images_stay_as_they_are_to_the_bit(plugins: Plugins) -> None:
    module = injector(plugins, "filtering", site=ImageSite(resolution=4, channels=1)).float()
    images = torch.tanh(normal("many", 4000, 1, 4, 4)).float()
    same = (module(images, drawn(module, 4000).float()) == images).flatten(1).all(dim=1)
    assert same.float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_the_mean_over_coins_is_half_the_loss_on_each_kind(plugins: Plugins) -> None:
    """Loss and gradient in N: over the four coins of a real and a generated image, against the paper's two halves."""
    module = injector(plugins, "filtering", moved=True)
    weight = normal("critic", 1, 2, 8, 8)

    def critic(images: Tensor) -> Tensor:
        return torch.tanh(images * weight).sum(dim=(1, 2, 3))[:, None]

    def with_coin(noise: Tensor, noisy: bool) -> Tensor:
        return torch.cat([torch.full_like(noise[:, :1], 0.2 if noisy else 0.7), noise[:, 1:]], dim=1)

    real, fake = X[:2], X[2:]
    e_real, e_fake = drawn(module, 2), drawn(module, 2, step=1)

    def loss(real_noisy: bool, fake_noisy: bool) -> Tensor:
        seen_real, seen_fake = module(real, with_coin(e_real, real_noisy)), module(fake, with_coin(e_fake, fake_noisy))
        return discriminator_loss(critic(seen_real), critic(seen_fake)).mean()

    coins = [loss(a, b) for a in (False, True) for b in (False, True)]
    mean = torch.stack(coins).mean()
    halves = discriminator_loss(critic(real), critic(fake)).mean() / 2
    halves = (
        halves + discriminator_loss(critic(real + module.noise(e_real)), critic(fake + module.noise(e_fake))).mean() / 2
    )
    torch.testing.assert_close(mean, halves, rtol=1e-12, atol=0)
    parameters = list(module.parameters())
    for a, b in zip(torch.autograd.grad(mean, parameters), torch.autograd.grad(halves, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_switched_off_noise_leaves_images_alone(plugins: Plugins) -> None:
    module = injector(plugins, "filtering")
    assert torch.equal(module(X, module.draw(MeanSource(4)).double()), X)


@pytest.mark.parametrize("strength", [0.5, 0.0])
def test_first_and_second_gradients(plugins: Plugins, strength: float) -> None:
    module = injector(plugins, f"filtering(width=2, strength={strength})", site=ImageSite(resolution=4, channels=1))
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, e: Tensor, *parameters: Tensor) -> Tensor:
        out = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x, e))
        assert isinstance(out, Tensor)
        return out

    values = [p.detach().clone().requires_grad_() for p in module.parameters()]
    x, e = torch.tanh(normal("x4", 2, 1, 4, 4)).requires_grad_(), drawn(module, 2).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, e, *values))
    assert torch.autograd.gradgradcheck(call, (x, e, *values), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_of_low_precision_keep_it(plugins: Plugins, dtype: torch.dtype) -> None:
    """The network itself stays in the precision of its parameters."""
    module = injector(plugins, "filtering").float()
    noise = drawn(module).float()
    low = module(X.to(dtype), noise)
    assert low.dtype == dtype
    torch.testing.assert_close(low.double(), module.double()(X, noise.double()), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("setting", ["power=0", "width=0", "strength=-1"])
def test_settings_out_of_range_are_refused(plugins: Plugins, setting: str) -> None:
    with pytest.raises(NoiseganError, match=setting.split("=")[0]):
        plugins.parse(f"filtering({setting})")


# in training


def strengths(tmp_path: Path, noise: str) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    options: dict[str, Any] = SMALL | {"outdir": str(tmp_path), "quiet": True, "noise": noise, "dlr": 0.02}
    run = noisegan.train(plugins=Plugins(entry_points=False), **options)
    states = [load_file(path) for path in snapshots(run)]
    return [state["image.filtering.strength"].item() for state in states], states[0], states[-1]


def test_a_high_price_silences_it_and_a_low_one_lets_it_grow(tmp_path: Path) -> None:
    """Against D and against its price; every parameter moves. Adam makes steps of the learning rate."""
    dear, first, last = strengths(tmp_path, "filtering(power=1000)")
    assert dear[-1] < 0.4 < dear[0] < 0.5
    for name, value in first.items():
        if name.startswith("image."):
            assert not torch.equal(value, last[name]), name
    cheap, _, _ = strengths(tmp_path, "filtering(power=1e-6)")
    assert cheap[-1] > 0.55


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    resumed_equals_unbroken("filtering(width=4)", tmp_path)
