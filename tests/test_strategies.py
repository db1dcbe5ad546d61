"""The built-in strategies against their formulas, written in NumPy, with parameters moved off their start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from noisegan.api import FeatureInjector, NoiseSite
from noisegan.core.rng import MeanSource, Streams
from noisegan.manager import Plugins

Array = NDArray[np.float64]
R, C, N = 8, 5, 3
SITE = NoiseSite(
    index=1, num_sites=3, name="b8.conv0", resolution=R, channels=C, in_channels=C, w_dim=4, upsampled=True
)


def normal(name: str, n: int, *shape: int) -> Tensor:
    return Streams(8)[name].source(ids=range(n)).normal(*shape).double()


X, E, W = normal("x", N, C, R, R), normal("e", N, 1, R, R), normal("w", N, 4)


def injector(plugins: Plugins, expression: str, moved: bool = False) -> FeatureInjector:
    """The injector of one site in float64; `moved`: every parameter a little off its start."""
    (strategy,) = plugins.parse(expression)
    assert strategy.spec.feature is not None
    module = strategy.spec.feature(SITE, strategy.params).double()
    if moved:
        for name, p in module.named_parameters():
            with torch.no_grad():
                p += 0.3 * normal(f"move/{name}", 1, *p.shape)[0]
    return module


def values(module: FeatureInjector) -> dict[str, Array]:
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def fuzzy_sigma(x: Array, a: Array, A: Array, b: Array) -> Array:
    """Feng et al. 2021, geometric realisation, one sample at a time: [N, C, H, W] -> [N, 1, H, W]."""
    maps = []
    for m in x:
        total = m.sum(axis=0)
        centred = total - total.mean()
        s = centred / np.abs(centred).max()
        mix = a * (A * s + b) + (1 - a)
        maps.append(mix / np.sqrt((mix**2).sum()))
    return np.stack(maps)[:, None]


def fuzzy(x: Array, e: Array, p: dict[str, Array], form: str) -> Array:
    sigma = fuzzy_sigma(x, p["alpha"], p["scale"], p["shift"])
    r = p["strength"] * R  # the parameter is r / sqrt(H W)
    return r * sigma * (x + e) if form == "scaled" else x + r * sigma * e


# additive and none


@pytest.mark.parametrize("per_channel", ["false", "true"])
def test_additive_is_m_plus_r_e(plugins: Plugins, per_channel: str) -> None:
    module = injector(plugins, f"additive(per_channel={per_channel})", moved=True)
    r = values(module)["strength"]
    assert r.shape == ((C, 1, 1) if per_channel == "true" else ())
    assert np.abs(r).min() > 0
    np.testing.assert_allclose(module(X, E, W).detach().numpy(), X.numpy() + r * E.numpy(), rtol=0, atol=1e-14)


def test_additive_starts_where_it_is_told(plugins: Plugins) -> None:
    assert values(injector(plugins, "additive"))["strength"] == 0
    assert values(injector(plugins, "additive(strength=-1.5)"))["strength"] == -1.5
    assert (values(injector(plugins, "additive(strength=2, per_channel=true)"))["strength"] == 2).all()


def test_additive_of_strength_zero_is_the_identity(plugins: Plugins) -> None:
    assert torch.equal(injector(plugins, "additive(strength=0)")(X, E, W), X)


def test_none_is_the_identity_and_draws_nothing(plugins: Plugins) -> None:
    module = injector(plugins, "none")
    assert torch.equal(module(X, module.draw(MeanSource(N)), W), X)
    assert module.draw(MeanSource(N)).shape == (N, 0)
    assert not list(module.parameters())


@pytest.mark.parametrize("expression", ["additive", "additive(per_channel=true)", "fuzzy"])
def test_noise_is_one_map_per_sample(plugins: Plugins, expression: str) -> None:
    assert injector(plugins, expression).draw(MeanSource(N)).shape == (N, 1, R, R)


# fuzzy


@pytest.mark.parametrize("form", ["scaled", "additive"])
def test_fuzzy_is_the_formula_of_the_paper(plugins: Plugins, form: str) -> None:
    module = injector(plugins, f"fuzzy(form={form})", moved=True)
    assert values(module).keys() == {"scale", "shift", "alpha", "strength"}
    expected = fuzzy(X.numpy(), E.numpy(), values(module), form)
    np.testing.assert_allclose(module(X, E, W).detach().numpy(), expected, rtol=0, atol=1e-12)


def test_fuzzy_starts_as_documented(plugins: Plugins) -> None:
    p = values(injector(plugins, "fuzzy"))
    assert p["alpha"] == 0.5
    assert p["strength"] == 1  # r = sqrt(H W)
    assert p["scale"].shape == p["shift"].shape == (R, R)
    assert (p["scale"] == 1).all()
    assert (p["shift"] == 1).all()


def test_fuzzy_starts_with_the_parameters_given(plugins: Plugins) -> None:
    p = values(injector(plugins, "fuzzy(alpha=0.25, gain=-2)"))
    assert p["alpha"] == 0.25
    assert p["strength"] == -2


def test_sigma_has_unit_norm_per_sample(plugins: Plugins) -> None:
    sigma = injector(plugins, "fuzzy", moved=True).sigma(1e3 * X + 7)
    assert sigma.shape == (N, 1, R, R)
    torch.testing.assert_close(sigma.square().sum(dim=(1, 2, 3)), torch.ones(N, dtype=torch.float64))


def test_sigma_starts_positive_with_a_mean_of_about_one_over_r(plugins: Plugins) -> None:
    sigma = injector(plugins, "fuzzy").sigma(X).detach()
    assert float(sigma.min()) > 0
    assert float(sigma.mean()) * R == pytest.approx(1, abs=0.1)


def test_sigma_follows_the_sum_of_the_channels(plugins: Plugins) -> None:
    sigma, total = injector(plugins, "fuzzy").sigma(X).detach()[:, 0], X.sum(dim=1)
    for s, t in zip(sigma, total, strict=True):
        assert torch.equal(s.flatten().argsort(), t.flatten().argsort())


def test_sigma_ignores_scale_and_offset_of_the_features(plugins: Plugins) -> None:
    module = injector(plugins, "fuzzy", moved=True)
    torch.testing.assert_close(module.sigma(20 * X + 3), module.sigma(X))


def test_scaled_form_starts_with_a_gain_near_one(plugins: Plugins) -> None:
    module = injector(plugins, "fuzzy")
    x = normal("unit", 64, C, R, R)
    gain = module(x, torch.zeros(64, 1, R, R, dtype=torch.float64), x).square().mean().sqrt()
    assert float(gain.detach()) == pytest.approx(1, abs=0.15)


def test_scaled_form_cannot_change_the_share_of_noise_per_pixel(plugins: Plugins) -> None:
    """r sigma multiplies signal and noise alike: what is left is (m + e), whatever r is."""
    module = injector(plugins, "fuzzy", moved=True)
    zero = torch.zeros_like(E)
    ratio = (module(X, E, W) - module(X, zero, W)) / module(X, zero, W)
    torch.testing.assert_close(ratio, E / X)


def test_additive_form_can_leave_the_signal_alone(plugins: Plugins) -> None:
    assert torch.equal(injector(plugins, "fuzzy(form=additive, gain=0)")(X, E, W), X)


def test_fuzzy_without_a_feature_dependent_share_is_additive_noise(plugins: Plugins) -> None:
    module = injector(plugins, "fuzzy(form=additive, alpha=0, gain=0.7)")
    torch.testing.assert_close(module(X, E, W), X + 0.7 * E)


@pytest.mark.parametrize("form", ["scaled", "additive"])
def test_every_fuzzy_parameter_learns(plugins: Plugins, form: str) -> None:
    module = injector(plugins, f"fuzzy(form={form})")
    module(X, E, W).pow(3).sum().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        assert bool((p.grad.abs() > 1e-6).all()), name


@pytest.mark.parametrize("form", ["scaled", "additive"])
def test_fuzzy_has_first_and_second_gradients(plugins: Plugins, form: str) -> None:
    """On a 4 x 4 map; the kink of max abs is a tie of measure zero."""
    site = NoiseSite(
        index=0, num_sites=1, name="b4.conv1", resolution=4, channels=2, in_channels=2, w_dim=4, upsampled=False
    )
    (strategy,) = plugins.parse(f"fuzzy(form={form})")
    assert strategy.spec.feature is not None
    module = strategy.spec.feature(site, strategy.params).double()
    start = [p.detach().requires_grad_() for p in module.parameters()]
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, e: Tensor, *parameters: Tensor) -> Tensor:
        out = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x, e, W[:1]))
        assert isinstance(out, Tensor)
        return out

    inputs = (normal("x4", 1, 2, 4, 4).requires_grad_(), normal("e4", 1, 1, 4, 4).requires_grad_(), *start)
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["scaled", "additive"])
@pytest.mark.parametrize("level", [0.0, 0.1, -3.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-4, 1e-2])
def test_a_flat_map_keeps_values_and_gradients_moderate(
    plugins: Plugins, form: str, level: float, dtype: torch.dtype, spread: float
) -> None:
    module = injector(plugins, f"fuzzy(form={form})", moved=True).to(dtype)
    x = (torch.full((N, C, R, R), level, dtype=dtype) + spread * X.to(dtype)).requires_grad_()
    out = module(x, E.to(dtype), W.to(dtype))
    assert float(out.detach().abs().max()) < 10 * (abs(level) + 5)
    targets = [x, *module.parameters()]
    size = (abs(level) + 5) ** 2  # the loss below is of this size
    (first, *others) = torch.autograd.grad(out.square().mean(), targets, create_graph=True)
    second = torch.autograd.grad(
        first.square().sum() + sum(g.square().sum() for g in others), targets, allow_unused=True
    )
    steepest = 1 / 0.01  # s is divided by 0.01 at the least
    for g in [first, *others]:
        assert float(g.detach().abs().max()) < size * steepest
    for g in second:
        assert g is None or float(g.abs().max()) < (size * steepest) ** 2


def test_a_constant_map_gives_the_noise_of_a_uniform_strength(plugins: Plugins) -> None:
    out = injector(plugins, "fuzzy(form=additive)")(torch.full_like(X, 2.0), E, W)
    torch.testing.assert_close(out, 2 + E.expand_as(X))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["scaled", "additive"])
def test_low_precision_comes_close(plugins: Plugins, form: str, dtype: torch.dtype) -> None:
    module = injector(plugins, f"fuzzy(form={form})").float()
    low = module(X.to(dtype), E.to(dtype), W.to(dtype))
    assert low.dtype == dtype
    torch.testing.assert_close(low.double(), module.double()(X, E, W), rtol=0.03, atol=0.05)


@pytest.mark.parametrize("expression", ["none", "additive(strength=0.5)", "fuzzy", "fuzzy(form=additive)"])
def test_samples_do_not_meet(plugins: Plugins, expression: str) -> None:
    module = injector(plugins, expression)
    whole = module(X, E, W)
    parts = torch.cat([module(X[i : i + 1], E[i : i + 1], W[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-14)
