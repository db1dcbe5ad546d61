"""`geodesic` against its formula, written from textbook formulas in NumPy and SciPy, one pixel at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from geodesics import Array, C, N, R, W, X, ball, by_pixel, drawn, drawn_in, held, injector, small_generator

from noisegan.api import FeatureInjector, NoiseSite
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins


def sphere(m: Array, e: Array, radius: float = 0.99, unit: float | None = None) -> Array:
    norm = np.linalg.norm(m)
    x = m / norm
    v = e / (np.sqrt(len(m) - 1) if unit is None else unit)
    v = v - (x @ v) * x
    v = held(v, float(np.linalg.norm(v)), radius * np.pi)
    angle = np.linalg.norm(v)
    return np.asarray(norm * (np.cos(angle) * x + np.sin(angle) * v / angle))


def symmetric(xi: Array) -> Array:
    """Diagonal first, then what stands beside it, over sqrt 2: |xi| is the Frobenius norm."""
    return np.array([[xi[0], xi[2] / 2**0.5], [xi[2] / 2**0.5, xi[1]]])


def spd(m: Array, e: Array) -> Array:
    """Affine-invariant metric, Pennec et al. 2006, with the Cholesky factor as the frame."""
    m, xi = m / 3**0.5, e / 3**0.5
    c = drawn_in(m, 4)
    factor = np.linalg.cholesky(scipy.linalg.expm(symmetric(c * m)))
    moved = factor @ scipy.linalg.expm(symmetric(held(xi, float(np.linalg.norm(xi)), 0.99 * 4))) @ factor.T
    back = scipy.linalg.logm(moved).real
    return np.asarray(np.array([back[0, 0], back[1, 1], 2**0.5 * back[0, 1]]) * 3**0.5 / c)


def sigma_of(module: FeatureInjector, x: Array) -> Array:
    """Strength, written out: broadcasts with [N, C, H, W]."""
    p = {name: value.detach().numpy() for name, value in module.named_parameters()}
    if "alpha" not in p:
        return np.asarray(p["strength"])
    total = x.sum(axis=1, keepdims=True)
    centred = total - total.mean(axis=(2, 3), keepdims=True)
    s = centred / np.abs(centred).max(axis=(2, 3), keepdims=True)
    mix = p["alpha"] * (p["scale"] * s + p["shift"]) + (1 - p["alpha"])
    return np.asarray(p["strength"] * R * mix / np.sqrt((mix**2).sum(axis=(2, 3), keepdims=True)))


SPACES: dict[str, tuple[Callable[[Array, Array], Array], int]] = {
    "sphere": (sphere, 7),
    "'sphere(dim=2)'": (sphere, 3),
    "'sphere(dim=1)'": (sphere, 2),
    "poincare_ball": (ball, 7),
    "'poincare_ball(dim=3)'": (ball, 3),
    "spd_affine": (spd, 3),
    "'spd_affine(n=2)'": (spd, 3),
    "euclidean": (lambda m, e: m + e, 7),
}


@pytest.mark.parametrize("sigma", ["shared", "per-channel", "spatial", "from-features"])
@pytest.mark.parametrize("space", SPACES)
def test_geodesic_is_its_formula(plugins: Plugins, space: str, sigma: str) -> None:
    module = injector(plugins, f"geodesic(manifold={space}, sigma={sigma}, noise=isotropic)", moved=True)
    move, group = SPACES[space]
    e = drawn(module)
    expected = by_pixel(X.numpy(), sigma_of(module, X.numpy()) * e.numpy(), move, group)
    np.testing.assert_allclose(module(X, e, W).detach().numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("space", ["sphere", "poincare_ball"])
@pytest.mark.parametrize("sigma", ["shared", "per-channel"])
def test_one_map_for_all_channels_is_that_map_repeated(plugins: Plugins, space: str, sigma: str) -> None:
    one = injector(plugins, f"geodesic(manifold={space}, sigma={sigma}, noise=shared)", moved=True)
    own = injector(plugins, f"geodesic(manifold={space}, sigma={sigma}, noise=isotropic)", moved=True)
    e = drawn(one)
    assert e.shape == (N, 1, R, R)
    torch.testing.assert_close(one(X, e, W), own(X, e.expand(-1, C, -1, -1).contiguous(), W), rtol=0, atol=1e-12)


# flat space is additive noise


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("geodesic(manifold=euclidean, strength=0.7)", "additive(strength=0.7)"),
        ("geodesic(manifold='euclidean(dim=3)', strength=0.7)", "additive(strength=0.7)"),
        ("geodesic(manifold=euclidean, strength=0.7, scale=unit)", "additive(strength=0.7)"),
        ("geodesic(manifold=euclidean, sigma=per-channel, strength=0.7)", "additive(per_channel=true, strength=0.7)"),
        ("geodesic(manifold=euclidean, sigma=from-features)", "fuzzy(form=additive)"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flat_space_is_the_noise_it_generalises(plugins: Plugins, ours: str, theirs: str, dtype: torch.dtype) -> None:
    a, b = injector(plugins, ours, moved=True).to(dtype), injector(plugins, theirs, moved=True).to(dtype)
    assert {n: p.shape for n, p in a.named_parameters()} == {n: p.shape for n, p in b.named_parameters()}
    b.load_state_dict(a.state_dict())
    e = drawn(a)
    assert torch.equal(e, drawn(b))
    x, e, w = X.to(dtype), e.to(dtype), W.to(dtype)
    torch.testing.assert_close(a(x, e, w), b(x, e, w), rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_flat_space_runs_in_the_fused_pass_and_makes_the_images_of_additive(plugins: Plugins) -> None:
    images = []
    for noise in ("additive(strength=0.3)", "geodesic(manifold=euclidean, strength=0.3)"):
        G = small_generator(plugins, noise)
        images.append(G(Streams(0)["z"].source(ids=range(2)).normal(4), noise="frozen"))
    torch.testing.assert_close(*images, rtol=0, atol=0)
    flat = injector(plugins, "geodesic(manifold=euclidean)")
    assert flat.added(drawn(flat)) is not None
    for other in ("geodesic", "geodesic(manifold=poincare_ball)", "geodesic(manifold=euclidean, sigma=from-features)"):
        module = injector(plugins, other)
        assert module.added(drawn(module)) is None


# channels and points


def test_channels_left_over_get_plain_noise(plugins: Plugins) -> None:
    module = injector(plugins, "geodesic(group=3, strength=0.5)")  # two points of three, one channel over
    e = drawn(module)
    out = module(X, e, W)
    assert e.shape == (N, C, R, R)
    torch.testing.assert_close(out[:, 6], (X + 0.5 * e)[:, 6])
    for start in (0, 3):
        own = slice(start, start + 3)
        torch.testing.assert_close(out[:, own].norm(dim=1), X[:, own].norm(dim=1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("expression", ["geodesic(group=3, strength=0.5)", "geodesic(strength=0.5)"])
def test_a_site_with_too_few_channels_gets_plain_noise(plugins: Plugins, expression: str) -> None:
    channels = 2 if "group" in expression else 1
    site = NoiseSite(
        index=0, num_sites=1, name="b4.conv1", resolution=R, channels=channels, in_channels=1, w_dim=4, upsampled=False
    )
    module = injector(plugins, expression, site=site)
    e = drawn(module)
    torch.testing.assert_close(module(X[:, :channels], e, W), X[:, :channels] + 0.5 * e)


def test_sigma_per_channel_has_one_number_for_every_normal(plugins: Plugins) -> None:
    assert injector(plugins, "geodesic(sigma=per-channel, group=3)").strength.shape == (C, 1, 1)
    assert injector(plugins, "geodesic(sigma=spatial)").strength.shape == (R, R)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("geodesic(manifold=spere)", "manifold='spere': unknown manifold 'spere'"),
        ("geodesic(manifold='sphere(dim=3, axis=1)')", "channels are laid along an axis already; leave axis out"),
        ("geodesic(manifold='torus(dim=2, axis=1)')", "channels are laid along an axis already; leave axis out"),
        ("geodesic(manifold=torus, group=3)", "group=3 channels make no point of 'torus', which takes 2, 4, 6, ..."),
        ("geodesic(manifold='sphere(dim=2)', group=4)", "makes a point of 3 channels, not of group=4"),
        ("geodesic(group=1)", "group=1 channels make no point of 'sphere', which takes 2, 3, 4, ... channels"),
        (
            "geodesic(manifold=spd_affine, group=4)",
            "group=4 channels make no point of 'spd_affine', which takes 3, 6, 10, ...",
        ),
        ("geodesic(group=0)", "group=0: Input should be greater than or equal to 1"),
        ("geodesic(radius=0)", "radius=0: Input should be greater than 0"),
        ("geodesic(radius=1.5)", "radius=1.5: Input should be less than or equal to 1"),
        ("geodesic(sigma=per-pixel)", "Input should be 'shared', 'per-channel', 'spatial' or 'from-features'"),
    ],
)
def test_refusals(plugins: Plugins, expression: str, text: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        plugins.parse(expression)
    assert text in str(caught.value)
    assert str(caught.value).startswith("noise strategy 'geodesic': ")
