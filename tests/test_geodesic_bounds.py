"""What `geodesic` keeps: norms on a sphere, angles about sigma, the radius, features far out, low precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from geodesics import C, W, X, drawn, injector, normal
from torch import Tensor

from noisegan.api import NoiseSite
from noisegan.manager import Plugins
from noisegan.plugins.geometry.points import REACH


def test_noise_on_a_sphere_keeps_the_norm_of_features(plugins: Plugins) -> None:
    module = injector(plugins, "geodesic(strength=2)")
    out = module(X, drawn(module), W)
    torch.testing.assert_close(out.norm(dim=1), X.norm(dim=1), rtol=1e-6, atol=0)


def test_the_angle_is_about_sigma_whatever_the_number_of_channels(plugins: Plugins) -> None:
    for channels in (4, 64):
        site = NoiseSite(
            index=0, num_sites=1, name="b16.conv1", resolution=16, channels=channels, in_channels=1, w_dim=4,
            upsampled=False,
        )  # fmt: skip
        module = injector(plugins, "geodesic(strength=0.4)", site=site)
        x = normal("many", channels, 16, 16)
        out = module(x, drawn(module), W).detach()
        angle = torch.nn.functional.cosine_similarity(out, x).clamp(-1, 1).acos()
        assert float(angle.square().mean().sqrt()) == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("space", ["sphere", "poincare_ball"])
def test_the_radius_holds_the_noise(plugins: Plugins, space: str) -> None:
    """However strong the noise, no point is moved further than the share of the radius, nor further than sigma asks."""
    for strength in (0.01, 1.0, 10.0):
        module = injector(plugins, f"geodesic(manifold={space}, radius=0.25, strength={strength})")
        e = drawn(module)
        out = module(X, e, W).detach()
        if space == "sphere":
            moved = torch.nn.functional.cosine_similarity(out, X).clamp(-1, 1).acos()
            asked, limit = strength * e.norm(dim=1) / (C - 1) ** 0.5, 0.25 * np.pi
        else:
            moved = hyperbolic_distance(out / C**0.5, X / C**0.5)
            asked, limit = strength * e.norm(dim=1) / C**0.5, 0.25 * REACH["poincare_ball"] / 2
        assert float(moved.max()) < limit + 1e-5
        assert bool((moved <= asked * 1.001 + 1e-6).all())
        if strength == 10:
            assert float(moved.max()) > 0.9 * limit


def hyperbolic_distance(a: Tensor, b: Tensor) -> Tensor:
    """Of points given by normal coordinates at the origin, [N, C, ...] -> [N, ...], by the law of cosines."""
    r, s = a.norm(dim=1), b.norm(dim=1)
    cosine = (a * b).sum(dim=1) / (r * s)
    return torch.acosh((r.cosh() * s.cosh() - r.sinh() * s.sinh() * cosine).clamp_min(1))


def test_features_far_out_are_moved_as_from_the_reach_and_keep_their_size(plugins: Plugins) -> None:
    module = injector(plugins, "geodesic(manifold=poincare_ball, strength=0.5)").float()
    x = (1e4 * X).float().requires_grad_()
    out = module(x, drawn(module).float(), W.float())
    (gradient,) = torch.autograd.grad(out.square().mean(), x)
    assert bool(gradient.isfinite().all())
    assert float((out.norm(dim=1) / x.norm(dim=1) - 1).detach().abs().max()) < 0.5
    off = module(x, torch.zeros_like(x), W.float())
    assert torch.equal(off, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("space", ["sphere", "poincare_ball", "euclidean"])
def test_low_precision_comes_close(plugins: Plugins, space: str, dtype: torch.dtype) -> None:
    module = injector(plugins, f"geodesic(manifold={space}, strength=0.3)").float()
    e = drawn(module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = module(X.to(dtype), e.to(dtype), W.to(dtype))
    assert low.dtype == dtype
    exact = module.double()(X.to(dtype).double(), e.to(dtype).double(), W)
    torch.testing.assert_close(low.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)
