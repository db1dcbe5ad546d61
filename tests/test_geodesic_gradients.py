"""`geodesic` at no noise and around it: the identity to the last bit, both derivatives, and what trains from zero."""

from __future__ import annotations

import pytest
import torch
from geodesics import C, N, W, X, drawn, injector, normal, small_generator
from torch import Tensor

from noisegan.api import FeatureInjector, NoiseSite
from noisegan.core.rng import MeanSource, Streams
from noisegan.manager import Plugins

ALL = [
    f"geodesic(manifold={manifold}, sigma={sigma}, noise={noise})"
    for manifold in ("euclidean", "sphere", "poincare_ball", "'sphere(dim=2)'")
    for sigma in ("shared", "per-channel", "spatial", "from-features")
    for noise in ("isotropic", "shared")
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("expression", [e for e in ALL if "from-features" not in e])
def test_zero_strength_is_the_identity_to_the_last_bit(plugins: Plugins, expression: str, dtype: torch.dtype) -> None:
    module = injector(plugins, expression)
    assert all(bool((p == 0).all()) for p in module.parameters())
    module, x = module.to(torch.promote_types(dtype, torch.float32)), X.to(dtype)
    assert torch.equal(module(x, drawn(module).to(dtype), W.to(dtype)), x)


@pytest.mark.parametrize("expression", ["geodesic", "geodesic(manifold=poincare_ball)", "geodesic(group=3)"])
def test_noise_switched_off_is_the_identity(plugins: Plugins, expression: str) -> None:
    module = injector(plugins, expression, moved=True)
    assert torch.equal(module(X, module.draw(MeanSource(N)).double(), W), X)


def along_sigma(module: FeatureInjector, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivative of the output in one shared sigma, at its present value."""
    weights = torch.zeros_like(x, requires_grad=True)
    (first,) = torch.autograd.grad((module(x, e, W) * weights).sum(), module.strength, create_graph=True)
    (second,) = torch.autograd.grad(first, module.strength, create_graph=True)
    return torch.autograd.grad(first, weights, retain_graph=True)[0], torch.autograd.grad(second, weights)[0]


def test_derivatives_at_zero_on_the_sphere_are_those_of_the_series(plugins: Plugins) -> None:
    """Exp_x(s v) = x + s v - s^2 |v|^2 x / 2 + ...: tangent noise first, curvature towards the centre second."""
    module = injector(plugins, "geodesic")
    e = drawn(module)
    first, second = along_sigma(module, X, e)
    norm = X.norm(dim=1, keepdim=True)
    x = X / norm
    v = (e - (x * e).sum(dim=1, keepdim=True) * x) / (C - 1) ** 0.5
    torch.testing.assert_close(first, norm * v, rtol=0, atol=1e-6)
    torch.testing.assert_close(second, -norm * v.square().sum(dim=1, keepdim=True) * x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("space", ["sphere", "poincare_ball", "'sphere(dim=2)'", "'poincare_ball(dim=2)'"])
def test_derivatives_at_zero_agree_with_finite_differences(plugins: Plugins, space: str) -> None:
    module = injector(plugins, f"geodesic(manifold={space})")
    e, h = drawn(module), 1e-3

    def at(s: float) -> Tensor:
        module.strength.data.fill_(s)
        return module(X, e, W).detach()

    first, second = (at(h) - at(-h)) / (2 * h), (at(h) - 2 * at(0) + at(-h)) / h**2
    module.strength.data.zero_()
    ours = along_sigma(module, X, e)
    torch.testing.assert_close(ours[0], first, rtol=0, atol=3e-4)
    torch.testing.assert_close(ours[1], second, rtol=0, atol=3e-4)
    assert all(float(o.abs().max()) > 0.1 for o in ours)


@pytest.mark.parametrize("strength", [0.0, 0.6])
@pytest.mark.parametrize("options", ["", "noise=shared, ", "manifold=poincare_ball, ", "group=2, ", "sigma=spatial, "])
def test_both_gradients_are_right(plugins: Plugins, options: str, strength: float) -> None:
    site = NoiseSite(
        index=0, num_sites=1, name="b2.conv1", resolution=2, channels=3, in_channels=3, w_dim=4, upsampled=False
    )
    module = injector(plugins, f"geodesic({options}strength={strength})", site=site)
    e = drawn(module)[:1].requires_grad_()
    (name,) = dict(module.named_parameters())
    start = module.strength.detach().clone().requires_grad_()
    x = normal("small", 3, 2, 2)[:1].requires_grad_()

    def call(x: Tensor, e: Tensor, s: Tensor) -> Tensor:
        out = torch.func.functional_call(module, {name: s}, (x, e, W[:1]))
        assert isinstance(out, Tensor)
        return out

    assert torch.autograd.gradcheck(call, (x, e, start))
    assert torch.autograd.gradgradcheck(call, (x, e, start), atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("space", ["sphere", "poincare_ball", "euclidean"])
@pytest.mark.parametrize("sigma", ["shared", "per-channel", "spatial"])
def test_training_moves_sigma_from_zero(plugins: Plugins, space: str, sigma: str) -> None:
    """A generator asked for images of more variance finds that noise is a way to make them."""
    G = small_generator(plugins, f"geodesic(manifold={space}, sigma={sigma})")
    z = Streams(0)["z"].source(ids=range(4)).normal(4)
    strengths = {name: p for name, p in G.named_parameters() if name.endswith("strength")}
    optimiser = torch.optim.Adam(strengths.values(), lr=0.05, betas=(0.0, 0.99))
    assert all(bool((p == 0).all()) for p in strengths.values())
    for _ in range(4):
        optimiser.zero_grad()
        (-G(z, noise="frozen").square().mean()).backward()
        optimiser.step()
    assert len(strengths) == 3
    for name, p in strengths.items():
        assert bool(p.isfinite().all()), name
        assert float(p.detach().abs().mean()) > 0.02, name


def test_from_features_starts_as_documented_and_every_quantity_learns(plugins: Plugins) -> None:
    module = injector(plugins, "geodesic(sigma=from-features)")
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    assert {name: p.unique().item() for name, p in start.items()} == {
        "strength": 1, "scale": 1, "shift": 1, "alpha": 0.5,
    }  # fmt: skip
    module(X, drawn(module), W).pow(3).sum().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None
        assert bool((p.grad.abs() > 1e-6).all()), name


@pytest.mark.parametrize("space", ["sphere", "poincare_ball"])
def test_pixels_without_features_have_finite_gradients(plugins: Plugins, space: str) -> None:
    module = injector(plugins, f"geodesic(manifold={space}, strength=0.5)").float()
    x = X.float().clone()
    x[:, :, 0, 0] = 0
    x[:, :, 0, 1] = 1e-20
    x.requires_grad_()
    out = module(x, drawn(module).float(), W.float())
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    for t in (out, first, second):
        assert bool(t.isfinite().all())


def test_the_closed_form_in_pieces_and_at_once_are_the_same(plugins: Plugins) -> None:
    """Under torch.compile and torch.func, PyTorch's own operations run instead of those that go sample by sample."""
    for space in ("sphere", "poincare_ball"):
        module = injector(plugins, f"geodesic(manifold={space}, strength=0.3)")
        e = drawn(module)
        _, at_once = torch.func.vjp(lambda x, m=module, e=e: m(x, e, W), X)
        x = X.clone().requires_grad_()
        (in_pieces,) = torch.autograd.grad((module(x, e, W) * X).sum(), x)
        torch.testing.assert_close(at_once(X)[0], in_pieces, rtol=0, atol=1e-12)
