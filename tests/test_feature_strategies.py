"""The short feature strategies: what all of them keep, and the formulas of multiplicative, dropout and anisotropic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from injecting import C, N, R, W, X, drawn, injector, normal, output, values
from safetensors.torch import load_file
from torch import Tensor
from training import SMALL

import noisegan
from noisegan.core.checkpoint import snapshots
from noisegan.core.losses import path_lengths
from noisegan.core.noise import StreamNoise
from noisegan.core.rng import MeanSource, Streams
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins

NAMES = ("multiplicative", "dropout", "coloured", "anisotropic", "warp")
LEARNED = {
    "multiplicative": {"strength": ()},
    "dropout": {},
    "coloured": {"strength": (), "exponent": ()},
    "anisotropic": {"diagonal": (C, 1, 1), "directions": (C, 4)},
    "warp": {"strength": ()},
}


# what all of them share


@pytest.mark.parametrize("name", NAMES)
def test_learned_quantities_start_where_their_pages_say(plugins: Plugins, name: str) -> None:
    learned = values(injector(plugins, name))
    assert {key: value.shape for key, value in learned.items()} == LEARNED[name]
    for key, value in learned.items():
        assert (value == (1 if key == "exponent" else 0)).all(), key


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"dropout"}))
def test_zero_strength_is_the_identity_and_is_left_at_the_first_step(plugins: Plugins, name: str) -> None:
    module = injector(plugins, name)
    out = module(X, drawn(module), W)
    assert torch.equal(out, X)
    out.pow(3).sum().backward()
    for key, p in module.named_parameters():
        assert p.grad is not None
        assert bool((p.grad.abs() > 1e-3).all()) == (key != "exponent"), key  # r dy/dalpha, and r is zero


@pytest.mark.parametrize("name", NAMES)
def test_noise_off_is_the_identity(plugins: Plugins, name: str) -> None:
    module = injector(plugins, name, moved=1)
    assert torch.equal(module(X, module.draw(MeanSource(N)).double(), W), X)


@pytest.mark.parametrize("moved", [0.0, 0.5])
@pytest.mark.parametrize(
    "expression",
    [*NAMES, "multiplicative(per_channel=true, unit=element)", "anisotropic(rank=1)", "warp(smoothness=0.5)"],
)
def test_first_and_second_gradients(plugins: Plugins, expression: str, moved: float) -> None:
    """In map, noise and everything learned, at the start (zero strength) and off it, on an odd size."""
    module = injector(plugins, expression, moved=moved, resolution=3, channels=2)
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, e: Tensor, *parameters: Tensor) -> Tensor:
        out = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x, e, W[:1]))
        assert isinstance(out, Tensor)
        return out

    x, e = normal("x3", 1, 2, 3, 3).requires_grad_(), drawn(module, 1).requires_grad_()
    inputs = (x, e, *(p.detach().clone().requires_grad_() for p in module.parameters()))
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_low_precision_comes_close(plugins: Plugins, name: str, dtype: torch.dtype) -> None:
    """Parameters stay in float32, as in training."""
    module = injector(plugins, name, moved=0.5)
    exact, e = output(module, X, drawn(module)), drawn(module).to(dtype)
    low = module.float()(X.to(dtype), e, W.to(dtype))
    assert low.dtype == dtype
    np.testing.assert_allclose(low.detach().double().numpy(), exact, rtol=0.02, atol=0.04)


@pytest.mark.parametrize(("resolution", "channels"), [(2, 1), (3, 2), (64, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_sites_of_any_size(plugins: Plugins, name: str, resolution: int, channels: int) -> None:
    module = injector(plugins, name, moved=0.5, resolution=resolution, channels=channels)
    x = normal("any", N, channels, resolution, resolution)
    out = module(x, drawn(module), W)
    assert out.shape == x.shape
    assert bool(out.isfinite().all())
    assert not torch.equal(out, x)


@pytest.mark.parametrize("placement", ["post-conv", "pre-conv", "inside-style", "post-activation"])
def test_all_together_train_at_every_placement(plugins: Plugins, placement: str) -> None:
    """Through the path-length penalty, so twice over; sites before a convolution have its channels and resolution."""
    noise = " + ".join(f"{name}(placement={placement})" for name in NAMES)
    G = noisegan.Generator(resolution=8, z_dim=4, w_dim=4, channel_base=32, channel_max=6, noise=noise, plugins=plugins)
    streams = Streams(1)
    ws = G.styles(streams["z"].source(ids=range(2)).normal(4))
    images = G.synthesis(ws, G.draw_noise(StreamNoise(streams, ids=range(2)), 2))
    path_lengths(images, ws, streams["y"].source(ids=range(2)).normal(*images.shape[1:])).sum().backward()
    reached = [n for n, p in G.named_parameters() if ".noise." in n and p.grad is not None and bool(p.grad.any())]
    assert len(reached) == 3 * 5  # at zero strength alpha is not reached
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in G.parameters())


def test_a_short_training_moves_all_that_is_learned(tmp_path: Path) -> None:
    noise = " + ".join(NAMES)
    run = noisegan.train(outdir=str(tmp_path), noise=noise, quiet=True, **SMALL | {"kimg": 0.04, "tick": 0.04})
    state = load_file(snapshots(run)[-1])
    moved = 0
    for name in NAMES:
        for key in LEARNED[name]:
            for site in ("b4.conv1", "b8.conv0", "b8.conv1"):
                value = state[f"G.synthesis.{site}.noise.{name}.{key}"]
                assert bool((value != (1 if key == "exponent" else 0)).all()), f"{site} {name} {key}"
                moved += 1
    assert moved == 3 * 6


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("dropout(rate=1)", "noise strategy 'dropout': rate=1: Input should be less than 1 (share of the map that is "
         "dropped; pix2pix has 0.5)"),
        ("dropout(rate=0)", "noise strategy 'dropout': rate=0: Input should be greater than 0 (share of the map that "
         "is dropped; pix2pix has 0.5)"),
        ("dropout(unit=row)", "noise strategy 'dropout': unit='row': Input should be 'element', 'channel' or 'pixel' "
         "(what is dropped as one: each element, a channel, or a pixel's channels)"),
        ("multiplicative(unit=row)", "noise strategy 'multiplicative': unit='row': Input should be 'pixel', 'channel' "
         "or 'element' (what has a number of its own in a sample: pixel, channel, or each element)"),
        ("coloured(exponent=5)", "noise strategy 'coloured': exponent=5: Input should be less than or equal to 4 "
         "(alpha of 1/f^alpha at the start: 0 white, 1 pink (learned))"),
        ("anisotropic(rank=0)", "noise strategy 'anisotropic': rank=0: Input should be greater than or equal to 1 "
         "(number of directions along which channels share noise)"),
        ("warp(smoothness=0)", "noise strategy 'warp': smoothness=0: Input should be greater than or equal to 0.1 "
         "(s, width of the Gaussian over the noise, in pixels)"),
    ],
)  # fmt: skip
def test_refusals(plugins: Plugins, expression: str, complaint: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        plugins.parse(expression)
    assert str(caught.value) == complaint


# multiplicative


@pytest.mark.parametrize("per_channel", ["false", "true"])
@pytest.mark.parametrize(("unit", "shape"), [("pixel", (1, R, R)), ("channel", (C, 1, 1)), ("element", (C, R, R))])
def test_multiplicative_is_the_map_times_one_plus_r_e(
    plugins: Plugins, unit: str, shape: tuple[int, ...], per_channel: str
) -> None:
    module = injector(plugins, f"multiplicative(unit={unit}, per_channel={per_channel})", moved=0.5)
    e, r = drawn(module), values(module)["strength"]
    assert e.shape == (N, *shape)
    assert r.shape == ((C, 1, 1) if per_channel == "true" else ())
    np.testing.assert_allclose(output(module, X, e), X.numpy() * (1 + r * e.numpy()), rtol=0, atol=1e-14)


# dropout


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.75])  # whose e is exact in the float32 of draws
@pytest.mark.parametrize(("unit", "shape"), [("element", (C, R, R)), ("channel", (C, 1, 1)), ("pixel", (1, R, R))])
def test_dropout_is_the_map_times_what_is_kept(
    plugins: Plugins, unit: str, shape: tuple[int, ...], rate: float
) -> None:
    module = injector(plugins, f"dropout(rate={rate}, unit={unit})")
    b = Streams(8)["e"].source(ids=range(N)).uniform(*shape).double().numpy() >= rate
    assert 0 < b.mean() < 1
    np.testing.assert_allclose(output(module, X, drawn(module)), X.numpy() * b / (1 - rate), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("unit", "shape"), [("element", (C, R, R)), ("channel", (C, 1, 1)), ("pixel", (1, R, R))])
def test_dropout_drops_a_share_and_keeps_the_mean(plugins: Plugins, unit: str, shape: tuple[int, ...]) -> None:
    module = injector(plugins, f"dropout(rate=0.2, unit={unit})")
    n = 4000
    e = drawn(module, n)
    assert e.shape == (n, *shape)
    out = output(module, torch.ones(n, C, R, R, dtype=torch.float64), e)
    assert np.unique(out.round(6)).tolist() == [0, 1.25]  # inverted scaling: 1 / (1 - rate)
    assert (out == 0).mean() == pytest.approx(0.2, abs=0.01)
    assert out.mean() == pytest.approx(1, abs=0.01)
    together = {"element": out[:, 0, 0, 0], "channel": out.mean(axis=(2, 3)), "pixel": out.mean(axis=1)}[unit]
    assert np.unique(together.round(6)).tolist() == [0, 1.25]  # one value over all that is dropped as one


def test_elements_are_dropped_independently(plugins: Plugins) -> None:
    e = drawn(injector(plugins, "dropout"), 2000).flatten(1).numpy()
    correlation = np.corrcoef(e[:, :40].T) - np.eye(40)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


def test_dropped_features_are_zero_to_the_bit_in_low_precision(plugins: Plugins) -> None:
    module = injector(plugins, "dropout(rate=0.3)")
    e = drawn(module).bfloat16()
    out = module(X.bfloat16(), e, W.bfloat16())
    assert torch.equal(out == 0, e < 0)
    assert bool((e < 0).any())


def test_dropout_stays_on_in_evaluation(plugins: Plugins) -> None:
    G = noisegan.Generator(resolution=8, z_dim=4, w_dim=4, channel_base=32, noise="dropout", plugins=plugins).eval()
    z = torch.zeros(2, 4)
    first, second = (G(z, noise=StreamNoise(Streams(1), ids=range(2), step=step)) for step in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(G(z, noise="off"), G(z, noise="off"))


def test_multiplicative_noise_has_the_moments_of_dropout(plugins: Plugins) -> None:
    """Srivastava et al. 2014, section 10: Gaussian noise of variance rate / (1 - rate)."""
    n, rate = 4000, 0.2
    strength = (rate / (1 - rate)) ** 0.5
    for expression in (f"dropout(rate={rate})", f"multiplicative(unit=element, strength={strength})"):
        module = injector(plugins, expression, channels=1, resolution=4)
        out = output(module, torch.full((n, 1, 4, 4), 2.0, dtype=torch.float64), drawn(module, n))
        assert out.mean() == pytest.approx(2, abs=0.02)
        assert out.std() == pytest.approx(2 * strength, rel=0.02)


# anisotropic


def test_anisotropic_is_the_formula(plugins: Plugins) -> None:
    module = injector(plugins, "anisotropic(rank=2)", moved=0.5)
    e, p = drawn(module), values(module)
    assert e.shape == (N, C + 2, R, R)
    expected = X.numpy().copy()
    for n, c, h, w in np.ndindex(*X.shape):
        expected[n, c, h, w] += p["diagonal"][c, 0, 0] * e[n, c, h, w]
        expected[n, c, h, w] += sum(p["directions"][c, k] * e[n, C + k, h, w] for k in range(2))
    np.testing.assert_allclose(output(module, X, e), expected, rtol=0, atol=1e-13)


def test_anisotropic_noise_has_the_covariance_of_factor_analysis(plugins: Plugins) -> None:
    module = injector(plugins, "anisotropic(rank=2, strength=0.4)", moved=0.5)
    p = values(module)
    noise = module.total(drawn(module, 500)).detach().numpy()
    found = np.cov(noise.transpose(1, 0, 2, 3).reshape(C, -1))
    wanted = np.diag(p["diagonal"].ravel() ** 2) + p["directions"] @ p["directions"].T
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.03)


def test_anisotropic_of_one_equal_direction_is_additive(plugins: Plugins) -> None:
    module, additive = injector(plugins, "anisotropic(rank=1)"), injector(plugins, "additive(per_channel=true)")
    r = normal("r", C, 1)
    with torch.no_grad():
        module.directions.copy_(r)
        additive.strength.copy_(r[:, :, None])
    e = drawn(module)
    np.testing.assert_allclose(output(module, X, e), output(additive, X, e[:, C:]), rtol=0, atol=1e-14)
