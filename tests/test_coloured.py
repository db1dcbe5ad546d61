"""coloured against its formula, written with Fourier coefficients one by one, and its spectrum and variance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from injecting import Array, C, N, X, drawn, injector, normal, output, values

from noisegan.manager import Plugins


def power_law(e: Array, alpha: float) -> Array:
    """White noise [H, W] shaped to 1/f^alpha: Fourier coefficients one by one, by the definition of the transform."""
    size = len(e)
    k = np.array([i if i <= size / 2 else i - size for i in range(size)])
    dft = np.exp(-2j * np.pi * np.outer(k, np.arange(size)) / size)
    power = np.array([[max(np.hypot(a, b), 1.0) ** -alpha for b in k] for a in k])
    spectrum = dft @ e @ dft.T * np.sqrt(power / power.mean())
    y = dft.conj().T @ spectrum @ dft.conj() / size**2
    assert np.abs(y.imag).max() < 1e-12
    return y.real


@pytest.mark.parametrize("resolution", [2, 3, 8])
def test_coloured_is_the_formula(plugins: Plugins, resolution: int) -> None:
    module = injector(plugins, "coloured", moved=0.7, resolution=resolution)
    x, e, p = normal("c", N, C, resolution, resolution), drawn(module), values(module)
    assert e.shape == (N, 1, resolution, resolution)
    y = np.stack([power_law(sample[0], float(p["exponent"])) for sample in e.numpy()])[:, None]
    np.testing.assert_allclose(output(module, x, e), x.numpy() + p["strength"] * y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("exponent", [-4, -1, 0, 1, 2.5, 4])
@pytest.mark.parametrize("resolution", [2, 7, 16])
def test_coloured_noise_has_unit_variance_whatever_the_exponent(
    plugins: Plugins, exponent: float, resolution: int
) -> None:
    """Exactly: the filter's responses to all unit pulses, which white noise weighs by independent normals."""
    module = injector(plugins, f"coloured(exponent={exponent})", resolution=resolution)
    pulses = torch.eye(resolution**2, dtype=torch.float64).view(-1, 1, resolution, resolution)
    variance = module.colour(pulses).square().sum(dim=0)  # [1, H, W]
    torch.testing.assert_close(variance, torch.ones_like(variance))


def test_coloured_noise_falls_as_its_exponent_says(plugins: Plugins) -> None:
    """The slope of power over frequency in a log-log plot of 50 samples."""
    module = injector(plugins, "coloured(exponent=1.5)", resolution=64)
    y = module.colour(drawn(module, 50)).detach().numpy()[:, 0]
    power = (np.abs(np.fft.fft2(y)) ** 2).mean(axis=0)
    k = np.fft.fftfreq(64, 1 / 64)
    f = np.hypot(k[:, None], k)
    band = (f >= 1) & (f < 32)
    assert np.polyfit(np.log(f[band]), np.log(power[band]), 1)[0] == pytest.approx(-1.5, abs=0.05)
    assert power[0, 0] == pytest.approx(power[f == 1].mean(), rel=0.5)  # the mean counts as the lowest frequency


def test_coloured_of_exponent_zero_is_additive(plugins: Plugins) -> None:
    white, additive = injector(plugins, "coloured(exponent=0, strength=0.75)"), injector(plugins, "additive")
    e = drawn(white)
    with torch.no_grad():
        additive.strength.fill_(0.75)
    np.testing.assert_allclose(output(white, X, e), output(additive, X, e), rtol=0, atol=1e-14)


@pytest.mark.parametrize("exponent", [-60.0, 60.0])
def test_no_exponent_that_is_learned_overflows(plugins: Plugins, exponent: float) -> None:
    module = injector(plugins, "coloured(strength=1)", resolution=256).float()
    with torch.no_grad():
        module.exponent.fill_(exponent)
    y = module.colour(drawn(module, 1).float())
    (gradient,) = torch.autograd.grad(y.pow(3).sum(), module.exponent)
    assert bool(y.isfinite().all())
    assert bool(gradient.isfinite())
    assert float(y.detach().square().mean()) < 20
