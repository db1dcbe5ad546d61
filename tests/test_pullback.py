"""`learned_metric(kind=pullback)` against the map that it pulls back, made of plain convolutions around one pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from local_metrics import Array, check_against_geomstats, normal, pixels, second_order
from safetensors.torch import load_file
from scipy.integrate import quad
from torch import Tensor
from training import SMALL

import noisegan
from noisegan.api import Ahead, NoiseSite, Reader
from noisegan.core.checkpoint import find_snapshot
from noisegan.core.rng import MeanSource
from noisegan.manager import Plugins
from noisegan.plugins.learned_metric import Pullback

R, C, N = 4, 3, 2
T, SLOPE, GAIN = 0.4, 0.2, 1.3
W = torch.zeros(N, 4, dtype=torch.float64)
SHAPES = ((5, 3), (2, 1), (4, 6))
"""Outputs and kernels of three readers: a convolution, `torgb`, and a convolution that doubles the resolution."""


def injector(plugins: Plugins, r: float, *, smoothing: float = T, channels: int = C) -> Pullback:
    site = NoiseSite(
        index=1, num_sites=3, name="b4.conv1", resolution=R, channels=channels, in_channels=channels, w_dim=4,
        upsampled=False,
    )  # fmt: skip
    (strategy,) = plugins.parse(f"learned_metric(kind=pullback, smoothing={smoothing})")
    assert strategy.spec.feature is not None
    module = strategy.spec.feature(site, strategy.params).double()
    assert isinstance(module, Pullback)
    with torch.no_grad():
        module.strength.fill_(r)
    return module


def ahead(n: int = N, channels: int = C, slope: float = SLOPE) -> Ahead:
    """What follows the site, everything off its usual value."""
    return Ahead(
        scale=1 + normal("scale", n, channels) / 4,
        bias=normal("bias", 1, channels)[0] / 2,
        slope=slope,
        gain=GAIN,
        readers=tuple(
            Reader(
                weight=normal(f"weight/{k}", 1, o, channels, k, k)[0],
                style=1 + normal(f"style/{k}", n, channels) / 2,
                demod=1 / (k + normal(f"demod/{k}", n, o).square()),
            )
            for o, k in SHAPES
        ),
    )


def inputs(n: int = N, channels: int = C) -> tuple[Tensor, Tensor]:
    return normal("x", n, channels, R, R), normal("e", n, channels, R, R)


# The map f of the page for one pixel of one sample, activation averaged over logistic noise of scale T, and its metric.


def phi(z: Tensor, slope: float = SLOPE, smoothing: float = T) -> Tensor:
    """Leaky ReLU averaged over logistic noise, up to a constant."""
    return slope * z + (1 - slope) * smoothing * F.softplus(z / smoothing)


class Pulled:
    """f of one pixel of one sample, and the metric that it pulls back."""

    def __init__(self, given: Ahead, i: int) -> None:
        self.scale, self.bias, self.slope = given.scale[i], given.bias, given.slope
        units = torch.eye(C, dtype=torch.float64)
        made = [units]
        for reader in given.readers:
            k = reader.weight.shape[-1]
            image = F.pad(torch.diag(reader.style[i])[:, :, None, None], (k - 1,) * 4)  # the pixel amid zeros
            out = reader.demod[i][:, None, None] * F.conv2d(image, reader.weight.flip(2, 3))
            made.append(out.flatten(1))
        self.outputs = torch.cat(made, dim=1).T  # [outputs, C] of unit changes of z

    def __call__(self, x: Tensor) -> Tensor:
        """x [C] -> z and all outputs of the readers."""
        return self.outputs @ (GAIN * phi(self.scale * x + self.bias, self.slope))

    def metric(self, x: Tensor) -> Tensor:
        """g = J^T J, [C, C]."""
        value = self.scale * x + self.bias
        J = self.outputs * (GAIN * self.scale * (self.slope + (1 - self.slope) * torch.sigmoid(value / T)))
        return J.T @ J

    def christoffels(self, x: Tensor) -> Array:
        """Gamma^k_ij = g^kl (d_i g_jl + d_j g_il - d_l g_ij) / 2."""
        dg = jacobian(self.metric, x)  # [i, j, l]
        lowered = (dg.permute(1, 2, 0) + dg.permute(2, 1, 0) - dg).permute(2, 0, 1) / 2  # [l, i, j]
        found: Array = torch.einsum("kl,lij->kij", self.metric(x).inverse(), lowered).detach().numpy()
        return found


def jacobian(f: Any, x: Tensor) -> Tensor:
    found = torch.autograd.functional.jacobian(f, x, create_graph=True)
    assert isinstance(found, Tensor)
    return found


def derivatives(module: Pullback, x: Tensor, e: Tensor, given: Ahead) -> tuple[Tensor, Tensor]:
    """First and second derivative in r at r = 0: v and a, [N, C, H W]."""

    def out(r: Tensor) -> Tensor:
        result = torch.func.functional_call(module, {"strength": r}, (x, e, W[: len(x)], given))
        assert isinstance(result, Tensor)
        return result.flatten(2)

    def slope(r: Tensor) -> Tensor:
        found: Tensor = torch.autograd.functional.jvp(out, r, torch.ones_like(r), create_graph=True)[1]
        return found

    zero = torch.zeros((), dtype=torch.float64)
    return slope(zero).detach(), torch.autograd.functional.jvp(slope, zero, torch.ones_like(zero))[1].detach()


# values


def test_the_map_has_the_metric() -> None:
    f, x = Pulled(ahead(), 0), normal("x", 1, C)[0]
    J = jacobian(f, x)
    torch.testing.assert_close(J.T @ J, f.metric(x), rtol=1e-13, atol=0)


def test_the_step_is_the_formula_with_christoffel_symbols_written_out(plugins: Plugins) -> None:
    module, given, (x, e) = injector(plugins, 0.4), ahead(), inputs()
    v = derivatives(module, x, e, given)[0].view_as(x)
    expected = []
    for i in range(N):
        f = Pulled(given, i)
        for point, along in zip(pixels(x[i : i + 1]), pixels(v[i : i + 1]), strict=True):
            expected.append(second_order(point, along, f.christoffels(torch.from_numpy(point)), 0.4))
    assert np.abs(np.stack(expected) - pixels(x + 0.4 * v)).max() > 1e-3  # the test sees the acceleration
    np.testing.assert_allclose(pixels(module(x, e, W, given)), np.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, R])  # fewer pixels than channels, and more
def test_noise_is_isotropic_in_the_metric(plugins: Plugins, size: int, layout: torch.memory_format) -> None:
    """v is linear in e, v = L e, and L L^T = g^-1 at every pixel: no sampling error."""
    x = normal("x", 1, C, size, size)
    given, columns = alone(C), torch.eye(C, dtype=torch.float64)[:, :, None, None].expand(-1, -1, size, size)
    x_of_all, e = (t.contiguous(memory_format=layout) for t in (x.expand(C, -1, -1, -1), columns))
    L = derivatives(injector(plugins, 0.0), x_of_all, e, given)[0]  # [column, row, pixel]
    f = Pulled(given, 0)
    for i, point in enumerate(pixels(x)):
        own = L[:, :, i].T
        torch.testing.assert_close(own @ own.T, f.metric(torch.from_numpy(point)).inverse(), rtol=0, atol=1e-13)


def alone(n: int = 1) -> Ahead:
    """What follows, for one sample, n times."""
    one = ahead(1)
    readers = [Reader(weight=r.weight, style=r.style.expand(n, -1), demod=r.demod.expand(n, -1)) for r in one.readers]
    return Ahead(scale=one.scale.expand(n, -1), bias=one.bias, slope=SLOPE, gain=GAIN, readers=tuple(readers))


def test_values_agree_with_geomstats(plugins: Plugins) -> None:
    given, (x, e) = ahead(1), (t[:, :, :1, :1] for t in inputs(1))
    v, a = (t[0, :, 0] for t in derivatives(injector(plugins, 0.0), x, e, given))

    def stepped(length: float) -> Tensor:
        out: Tensor = injector(plugins, length / float(v.norm()))(x, e, W[:1], given)
        return out[0, :, 0, 0].detach()

    check_against_geomstats(Pulled(given, 0).metric, x[0, :, 0, 0], v, a, stepped)


def test_geodesics_are_straight_in_the_activations(plugins: Plugins) -> None:
    """What the page says of this metric: f(out) = f(x) + r J v to third order, and J v is as long as e."""
    given, (x, e) = ahead(1), (t[:, :, :1, :1] for t in inputs(1))
    f, point = Pulled(given, 0), x[0, :, 0, 0]
    moves = jacobian(f, point).detach() @ derivatives(injector(plugins, 0.0), x, e, given)[0][0, :, 0]
    torch.testing.assert_close(moves.norm(), e.norm(), rtol=1e-12, atol=0)

    def missing(r: float) -> float:
        out = injector(plugins, r)(x, e, W[:1], given)[0, :, 0, 0].detach()
        return float((f(out) - f(point) - r * moves).norm())

    assert missing(0.02) / missing(0.01) == pytest.approx(8, rel=0.2)


@pytest.mark.parametrize("r", [0.1, 1.0, 30.0, 1e4])
def test_the_bend_stays_below_half_of_the_step(plugins: Plugins, r: float) -> None:
    given, (x, e) = ahead(), inputs()
    v, _ = derivatives(injector(plugins, 0.0), x, e, given)
    bend = (injector(plugins, r)(x, e, W, given).detach() - x).flatten(2) - r * v
    assert bool((bend.norm(dim=1) < 0.5 * r * v.norm(dim=1)).all())


def test_where_nothing_is_bent_noise_is_that_of_a_constant_metric(plugins: Plugins) -> None:
    """Before a convolution, without activation: slope one. Without readers the metric is that of z alone."""
    linear, (x, e) = ahead(slope=1.0), inputs()
    v, a = derivatives(injector(plugins, 0.0), x, e, linear)
    assert not a.any()
    bare = Ahead(scale=linear.scale, bias=linear.bias, slope=1.0, gain=GAIN, readers=())
    out = injector(plugins, 0.7)(x, e, W, bare)
    torch.testing.assert_close(out, x + 0.7 * e / (GAIN * linear.scale[:, :, None, None]))
    assert float((v.view_as(x) - e).abs().max()) > 0.1


def test_noise_is_drawn_per_channel_and_off_is_the_identity(plugins: Plugins) -> None:
    module, (x, _) = injector(plugins, 0.7), inputs()
    off = module.draw(MeanSource(N)).double()
    assert off.shape == (N, C, R, R)
    assert torch.equal(module(x, off, W, ahead()), x)


# leaky ReLU


def test_the_exact_leaky_relu_has_no_acceleration(plugins: Plugins) -> None:
    """What the page calls the trap: its second derivative is zero to the bit, at every pixel; the smooth one's is not,
    and neither is the secant over a step of the noise where that crosses a kink."""
    given, (x, e) = ahead(), inputs()
    v, a = derivatives(injector(plugins, 0.0), x, e, given)
    crossed, count = 0, 0
    for i in range(N):

        def f(point: Tensor, i: int = i) -> Tensor:
            return F.leaky_relu(given.scale[i] * point + given.bias, SLOPE)

        for point, along in zip(pixels(x[i : i + 1]), pixels(v[i : i + 1, :, :, None]), strict=True):
            here, d = torch.from_numpy(point), torch.from_numpy(along)
            assert jacobian(f, here).any()
            assert not jacobian(lambda z: jacobian(f, z), here).any()
            secant = (f(here + 0.3 * d) - 2 * f(here) + f(here - 0.3 * d)) / 0.3**2
            crossed += bool(secant.abs().max() > 1e-9)
            count += 1
    assert 0.2 < crossed / count < 0.9
    assert float(a.norm(dim=1).min()) > 1e-5


def test_its_smooth_form_is_its_average_over_logistic_noise() -> None:
    """phi(z) = E leaky(z + T L), L logistic, up to a constant."""

    def averaged(z: float) -> float:
        def weighted(u: float) -> float:
            value = z + T * u
            return (value if value > 0 else SLOPE * value) / (4 * np.cosh(u / 2) ** 2)

        return float(quad(weighted, -60, -z / T, epsabs=1e-13)[0] + quad(weighted, -z / T, 60, epsabs=1e-13)[0])

    points = (-1.3, -0.1, 0.0, 0.4, 2.0)
    away = [averaged(z) - float(phi(torch.tensor(z, dtype=torch.float64))) for z in points]
    assert away == pytest.approx([away[0]] * len(points), abs=1e-10)


def test_less_smoothing_bends_at_fewer_pixels(plugins: Plugins) -> None:
    """Towards the exact leaky ReLU the acceleration gathers at the kinks and is gone everywhere else."""
    given, (x, e) = ahead(16), inputs(16)
    shares = []
    for smoothing in (1.0, 0.1, 0.01):
        _, a = derivatives(injector(plugins, 0.0, smoothing=smoothing), x, e, given)
        shares.append(float((a.norm(dim=1) > 1e-3).double().mean()))
    assert shares[0] > 0.95
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.3


# gradients


@pytest.mark.parametrize("place", ["generic", "zero strength", "zero noise"])
def test_first_and_second_gradients(plugins: Plugins, place: str) -> None:
    """In features, noise, r and every tensor of what follows."""
    module = injector(plugins, 0.5, channels=2)
    given = ahead(1, channels=2)
    r = torch.tensor(0.0 if place == "zero strength" else 0.5, dtype=torch.float64)
    x, e = (t[:, :, :1, :1].clone() for t in inputs(1, channels=2))
    if place == "zero noise":
        e.zero_()
    tensors = [t for reader in given.readers for t in (reader.weight, reader.style, reader.demod)]

    def call(x: Tensor, e: Tensor, r: Tensor, scale: Tensor, bias: Tensor, *readers: Tensor) -> Tensor:
        made = [
            Reader(weight=w, style=s, demod=d)
            for w, s, d in zip(readers[::3], readers[1::3], readers[2::3], strict=True)
        ]
        own = Ahead(scale=scale, bias=bias, slope=SLOPE, gain=GAIN, readers=tuple(made))
        out = torch.func.functional_call(module, {"strength": r}, (x, e, W[:1], own))
        assert isinstance(out, Tensor)
        return out

    arguments = [t.clone().requires_grad_() for t in (x, e, r, given.scale, given.bias, *tensors)]
    assert torch.autograd.gradcheck(call, arguments)
    assert torch.autograd.gradgradcheck(call, arguments)


# numbers of little precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(plugins: Plugins, dtype: torch.dtype) -> None:
    """Also under autocast: the result is that of float32 on the same numbers, rounded at the end."""
    module, (x, e) = injector(plugins, 0.5).float(), (t.to(dtype) for t in inputs())
    given = single(ahead())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = module(x, e, W.to(dtype), given)
    assert low.dtype == dtype
    assert torch.equal(low, module(x.float(), e.float(), W.float(), given).to(dtype))


def test_large_features_noise_and_weights_stay_finite(plugins: Plugins) -> None:
    """Also where the readers see one direction only, and that a million times as well as the others."""
    module, (x, e) = injector(plugins, 1.0).float(), (1e3 * t.float() for t in inputs())
    one = single(ahead())
    reader = one.readers[0]
    blind = Reader(weight=1e3 * reader.weight[:1], style=reader.style, demod=reader.demod[:, :1])
    steep = Ahead(scale=one.scale, bias=one.bias, slope=SLOPE, gain=GAIN, readers=(blind,))
    out = module(x.requires_grad_(), e, W.float(), steep)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert bool(out.isfinite().all())
    assert bool(gradient.isfinite().all())


def single(given: Ahead) -> Ahead:
    """In float32."""
    readers = tuple(
        Reader(weight=r.weight.float(), style=r.style.float(), demod=r.demod.float()) for r in given.readers
    )
    return Ahead(
        scale=given.scale.float(), bias=given.bias.float(), slope=given.slope, gain=given.gain, readers=readers
    )


# training


def test_training_from_zero_moves_strengths(tmp_path: Path, plugins: Plugins) -> None:
    noise = "learned_metric(kind=pullback) + latent_chunks + learned_metric(kind=pullback, placement=pre-conv)"
    run = noisegan.train(
        outdir=str(tmp_path), plugins=plugins, quiet=True, **SMALL | {"noise": noise, "kimg": 0.04, "tick": 0.02}
    )
    last = load_file(find_snapshot(run))
    strengths = {name: value for name, value in last.items() if name.startswith("G.") and "learned_metric" in name}
    assert len(strengths) == 3 * 2  # sites and strategies
    for name, value in strengths.items():
        assert float(value.abs()) > 1e-5, name
