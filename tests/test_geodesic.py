"""`geodesic` against its formula, written from textbook formulas in NumPy and SciPy, one pixel at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from noisegan.api import FeatureInjector, NoiseSite
from noisegan.core.generator import Generator
from noisegan.core.rng import MeanSource, Streams
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins
from noisegan.plugins.geometry.points import REACH

Array = NDArray[np.float64]
R, C, N = 4, 7, 2
SITE = NoiseSite(
    index=1, num_sites=3, name="b4.conv1", resolution=R, channels=C, in_channels=C, w_dim=4, upsampled=False
)


def normal(name: str, *shape: int) -> Tensor:
    return Streams(5)[name].source(ids=range(N)).normal(*shape).double()


X, W = normal("x", C, R, R), normal("w", 4)
ALL = [
    f"geodesic(manifold={manifold}, sigma={sigma}, noise={noise})"
    for manifold in ("euclidean", "sphere", "poincare_ball", "'sphere(dim=2)'")
    for sigma in ("shared", "per-channel", "spatial", "from-features")
    for noise in ("isotropic", "shared")
]


def injector(plugins: Plugins, expression: str, moved: bool = False, site: NoiseSite = SITE) -> FeatureInjector:
    """The injector of one site in float64; `moved`: every parameter a little off its start."""
    (strategy,) = plugins.parse(expression)
    assert strategy.spec.feature is not None
    module = strategy.spec.feature(site, strategy.params).double()
    if moved:
        for name, p in module.named_parameters():
            p.data += 0.3 * Streams(2)[name].source(ids=[0]).normal(*p.shape)[0]
    return module


def drawn(module: FeatureInjector) -> Tensor:
    return module.draw(Streams(3)["noise"].source(ids=range(N))).double()


def by_pixel(m: Array, e: Array, move: Callable[[Array, Array], Array], group: int) -> Array:
    """`move` of each group of channels of each pixel; m and e [N, C, H, W]; channels left over: m + e."""
    out = m + e
    for n, h, w in np.ndindex(m.shape[0], *m.shape[2:]):
        for start in range(0, m.shape[1] - group + 1, group):
            own = slice(start, start + group)
            out[n, own, h, w] = move(m[n, own, h, w], e[n, own, h, w])
    return out


def held(v: Array, length: float, rho: float) -> Array:
    return v * (rho * np.tanh(length / rho) / length)


def sphere(m: Array, e: Array, radius: float = 0.99, unit: float | None = None) -> Array:
    norm = np.linalg.norm(m)
    x = m / norm
    v = e / (np.sqrt(len(m) - 1) if unit is None else unit)
    v = v - (x @ v) * x
    v = held(v, float(np.linalg.norm(v)), radius * np.pi)
    angle = np.linalg.norm(v)
    return np.asarray(norm * (np.cos(angle) * x + np.sin(angle) * v / angle))


def drawn_in(m: Array, far: float) -> float:
    return float((1 + (np.linalg.norm(m) / far) ** 8) ** (-1 / 8))


def mobius(x: Array, y: Array) -> Array:
    xy, xx, yy = x @ y, x @ x, y @ y
    return np.asarray(((1 + 2 * xy + yy) * x + (1 - xx) * y) / (1 + 2 * xy + xx * yy))


def ball(m: Array, e: Array, radius: float = 0.99) -> Array:
    """Exp_x(v) is the Moebius sum of x and tanh(lambda |v| / 2) v / |v|, lambda = 2 / (1 - |x|^2)."""
    unit = np.sqrt(len(m))
    m, xi = m / unit, e / unit
    c = drawn_in(m, 6)
    m = c * m
    xi = held(xi, float(np.linalg.norm(xi)), radius * 6)
    x = np.tanh(np.linalg.norm(m) / 2) * m / np.linalg.norm(m)
    half = np.linalg.norm(xi) / 2  # lambda |v| / 2, as |xi| is the length of v in the metric
    y = mobius(x, np.tanh(half) * xi / np.linalg.norm(xi))
    return np.asarray(2 * np.arctanh(np.linalg.norm(y)) * y / np.linalg.norm(y) * unit / c)


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


def small_generator(plugins: Plugins, noise: str) -> Generator:
    return Generator(
        resolution=8, z_dim=4, w_dim=4, mapping_layers=1, channel_base=32, channel_max=4, noise=plugins.parse(noise)
    )


# no noise


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


# what it keeps


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


def test_the_closed_form_in_pieces_and_at_once_are_the_same(plugins: Plugins) -> None:
    """Under torch.compile and torch.func, PyTorch's own operations run instead of those that go sample by sample."""
    for space in ("sphere", "poincare_ball"):
        module = injector(plugins, f"geodesic(manifold={space}, strength=0.3)")
        e = drawn(module)
        _, at_once = torch.func.vjp(lambda x, m=module, e=e: m(x, e, W), X)
        x = X.clone().requires_grad_()
        (in_pieces,) = torch.autograd.grad((module(x, e, W) * X).sum(), x)
        torch.testing.assert_close(at_once(X)[0], in_pieces, rtol=0, atol=1e-12)


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
