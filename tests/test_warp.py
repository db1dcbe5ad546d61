"""warp against its formula, written with SciPy one pixel at a time, and against splines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage
import torch
from injecting import Array, C, N, R, X, drawn, injector, output, values
from torch import Tensor

from noisegan.api import FeatureInjector
from noisegan.manager import Plugins


def elastic(e: Array, r: float, s: float) -> Array:
    """Simard et al. 2003, one axis of one sample: [H, W] -> pixels, [H, W]; each pixel's weights scaled to norm one."""
    size = len(e)
    u = np.zeros_like(e)
    for y, x in np.ndindex(size, size):
        i, j = np.mgrid[:size, :size]
        weight = np.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * s**2))
        u[y, x] = (weight * e).sum() / np.sqrt((weight**2).sum())
    return np.tanh(r * u)


def lagrange(m: Array, u: Array) -> Array:
    """m(p + u(p)) for one map [H, W]: a parabola through three neighbours along x, then one along y."""
    m = np.pad(m, 1, mode="edge")
    out = np.zeros(u.shape[1:])
    for y, x in np.ndindex(*out.shape):
        rows = [scipy.interpolate.KroghInterpolator([-1, 0, 1], m[y + a, x : x + 3])(u[1, y, x]) for a in range(3)]
        out[y, x] = scipy.interpolate.KroghInterpolator([-1, 0, 1], rows)(u[0, y, x])
    return out


@pytest.mark.parametrize("smoothness", [0.7, 2.0])
def test_warp_is_the_formula(plugins: Plugins, smoothness: float) -> None:
    module = injector(plugins, f"warp(smoothness={smoothness})", moved=0.8)
    e, r = drawn(module), float(values(module)["strength"])
    assert e.shape == (N, 2, R, R)
    u = np.stack([[elastic(axis, r, smoothness) for axis in sample] for sample in e.numpy()])
    np.testing.assert_allclose(module.displacement(e).detach().numpy(), u, rtol=0, atol=1e-12)
    expected = np.stack([[lagrange(m, u[n]) for m in X[n].numpy()] for n in range(N)])
    np.testing.assert_allclose(output(module, X, e), expected, rtol=0, atol=1e-12)


def shifted(module: FeatureInjector, x: Tensor, dy: float, dx: float) -> Array:
    """The map under a displacement that is the same everywhere."""
    u = torch.tensor([dy, dx], dtype=torch.float64).view(1, 2, 1, 1).expand(len(x), 2, *x.shape[2:])
    module.displacement = lambda noise: u  # type: ignore[method-assign]
    return output(module, x, u)


def test_warp_by_whole_pixels_moves_the_map_with_its_border_repeated(plugins: Plugins) -> None:
    for step in ((0, 1), (-1, 0), (1, -1)):
        moved = shifted(injector(plugins, "warp"), X, *step)
        expected = scipy.ndimage.shift(X.numpy(), (0, 0, -step[0], -step[1]), order=0, mode="nearest")
        np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "surface", [lambda y, x: y, lambda y, x: x * y, lambda y, x: x * x - y, lambda y, x: (x * y) ** 2]
)
def test_warp_is_exact_on_maps_of_second_degree_in_each_axis(
    plugins: Plugins, surface: Callable[[Array, Array], Array]
) -> None:
    y, x = np.mgrid[:R, :R].astype(float)
    moved = shifted(injector(plugins, "warp"), torch.tensor(surface(y, x))[None, None], 0.3, -0.6)[0, 0]
    np.testing.assert_allclose(moved[1:-1, 1:-1], surface(y + 0.3, x - 0.6)[1:-1, 1:-1], rtol=0, atol=1e-11)


def test_warp_shows_a_smooth_map_where_it_was_displaced_to(plugins: Plugins) -> None:
    """At displacements that vary from pixel to pixel; a parabola errs by at most 0.385 / 6 times third derivatives."""

    def surface(y: Array, x: Array) -> Array:
        return np.sin(0.3 * x) + np.cos(0.2 * y + 0.1 * x)

    module = injector(plugins, "warp(strength=0.5, smoothness=4)", resolution=32)
    e = drawn(module, 1)
    y, x = np.mgrid[:32, :32].astype(float)
    u = module.displacement(e).detach().numpy()[0]
    found = output(module, torch.tensor(surface(y, x))[None, None], e)[0, 0]
    inside = (slice(1, -1), slice(1, -1))
    assert np.abs(found - surface(y, x))[inside].max() > 0.1
    np.testing.assert_allclose(found[inside], surface(y + u[0], x + u[1])[inside], rtol=0, atol=3e-3)


def test_displacements_have_unit_variance_stay_below_a_pixel_and_are_smooth(plugins: Plugins) -> None:
    module = injector(plugins, "warp(strength=0.01, smoothness=3)", resolution=16)
    u = module.displacement(drawn(module, 2000)).detach().numpy() / 0.01
    np.testing.assert_allclose(u.std(axis=0), 1, rtol=0, atol=0.1)
    lag = np.mean(u[..., 8, 8] * u[..., 8, 9]) / u[..., 8, 8].std() / u[..., 8, 9].std()
    assert lag == pytest.approx(np.exp(-1 / (4 * 3**2)), abs=0.01)  # two Gaussians of width s, one pixel apart
    with torch.no_grad():
        module.strength.fill_(10)
    assert float(module.displacement(drawn(module)).detach().abs().max()) <= 1


def test_warp_leaves_a_constant_map_alone(plugins: Plugins) -> None:
    module = injector(plugins, "warp", moved=2)
    flat = torch.full((N, C, R, R), 3.0, dtype=torch.float64)
    np.testing.assert_allclose(output(module, flat, drawn(module)), 3, rtol=0, atol=1e-13)
