"""The Roth penalty against the paper's expressions, in NumPy, at a discriminator whose gradient is known by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_resume import resumed_equals_unbroken
from torch import Tensor
from training import SMALL

import noisegan
from noisegan.api import PenaltyInjector
from noisegan.core.checkpoint import find_snapshot, read_facts, read_tensors, snapshots
from noisegan.core.data import open_dataset
from noisegan.core.discriminator import Discriminator
from noisegan.core.images import to_float
from noisegan.core.losses import r1_penalty
from noisegan.core.rng import Streams
from noisegan.manager import Plugins

Array = NDArray[np.float64]
DIVERGENCES = ("js", "gan", "kl", "reverse_kl", "pearson", "squared_hellinger")


def normal(name: str, *shape: int) -> Tensor:
    return Streams(5)[name].source(ids=range(shape[0])).normal(*shape[1:]).double()


REAL, FAKE = 0.7 * normal("real", 5, 2, 3, 3), 0.7 * normal("fake", 5, 2, 3, 3) - 0.2
A, B = normal("a", 2, 18), normal("b", 1, 2)[0]


def discriminate(images: Tensor) -> Tensor:
    """psi(x) = sum over k of b_k tanh(a_k x)."""
    return (torch.tanh(images.flatten(1) @ A.T) @ B)[:, None]


def psi_and_gradient(images: Tensor) -> tuple[Array, Array]:
    """psi [N], and its gradient in x by hand, sum over k of b_k (1 - tanh(a_k x)^2) a_k, [N, 18]."""
    x, a, b = images.flatten(1).numpy(), A.numpy(), B.numpy()
    t = np.tanh(x @ a.T)
    return t @ b, ((1 - t**2) * b) @ a


def injector(plugins: Plugins, expression: str) -> PenaltyInjector:
    (strategy,) = plugins.parse(expression)
    assert strategy.spec.penalty is not None
    return strategy.spec.penalty(strategy.params).double()


class FGAN(NamedTuple):
    """An f-GAN as Nowozin et al. 2016 tabulate it: best variational function T(r), and f* with T in its domain."""

    best: Callable[[Array], Array]
    conjugate: Callable[[Array], Array]


TABLE = {
    "kl": FGAN(lambda r: 1 + np.log(r), lambda t: np.exp(t - 1)),
    "reverse_kl": FGAN(lambda r: -1 / r, lambda t: -1 - np.log(-t)),
    "pearson": FGAN(lambda r: 2 * (r - 1), lambda t: t**2 / 4 + t),
    "squared_hellinger": FGAN(lambda r: 1 - 1 / np.sqrt(r), lambda t: t / (1 - t)),
    "gan": FGAN(lambda r: np.log(r / (1 + r)), lambda t: -np.log(1 - np.exp(t))),
}


def derivative(f: Callable[[Array], Array], x: Array, order: int, h: float = 1e-3) -> Array:
    """Central differences of eighth order."""
    first = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    second = {1: 8 / 5, 2: -1 / 5, 3: 8 / 315, 4: -1 / 560}
    if order == 1:
        return sum(c * (f(x + k * h) - f(x - k * h)) for k, c in first.items()) / h  # type: ignore[no-any-return]
    centre = -205 / 72 * f(x)
    return (centre + sum(c * (f(x + k * h) + f(x - k * h)) for k, c in second.items())) / h**2  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", TABLE)
def test_the_table_is_one_of_convex_conjugates(name: str) -> None:
    """f*'(T(r)) = r: T(r) attains the supremum, so the pairs belong together."""
    r = np.array([0.3, 0.9, 1.0, 2.5])
    np.testing.assert_allclose(derivative(TABLE[name].conjugate, TABLE[name].best(r), 1), r, rtol=1e-8)


def general_form(name: str, psi: Array, gradient: Array) -> Array:
    """f*''(T) |grad T|^2 per sample at T = T(exp psi), straight from the table."""
    f_gan = TABLE[name]

    def variational(logit: Array) -> Array:
        return f_gan.best(np.exp(logit))

    grad_t = derivative(variational, psi, 1)[:, None] * gradient  # [N, 18]
    return derivative(f_gan.conjugate, variational(psi), 2) * (grad_t**2).sum(axis=1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", TABLE)
def test_the_general_form_for_each_f(plugins: Plugins, name: str) -> None:
    """(g / 2) E_fake[f*''(T) |grad T|^2]."""
    found = injector(plugins, f"roth(start=0.75, end=0.1, f_divergence={name})")(discriminate, REAL, FAKE)
    expected = 0.75 / 2 * general_form(name, *psi_and_gradient(FAKE)).mean()
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_the_js_form(plugins: Plugins) -> None:
    """(g / 2) (E_real[(1 - p)^2 |grad psi|^2] + E_fake[p^2 |grad psi|^2])."""
    total = 0.0
    for images, real in ((REAL, True), (FAKE, False)):
        psi, gradient = psi_and_gradient(images)
        p = 1 / (1 + np.exp(-psi))
        total += float((((1 - p) if real else p) ** 2 * (gradient**2).sum(axis=1)).mean())
    found = injector(plugins, "roth(start=0.75)")(discriminate, REAL, FAKE)
    assert found.item() == pytest.approx(0.75 / 2 * total, rel=1e-12)


def test_js_is_the_general_form_of_gan_at_the_best_discriminator(plugins: Plugins) -> None:
    """On a grid with densities p and q = p / r and psi = log r, as importance weights: E_q[w] = sum over x of q w."""
    x = np.linspace(-2, 2, 9)
    psi = 1.3 * x
    q = np.exp(-((x - 0.3) ** 2))
    p = np.exp(psi) * q
    sigma = 1 / (1 + np.exp(-psi))
    slope = 1.3**2
    general = (q * general_form("gan", psi, np.full((9, 1), 1.3))).sum()
    assert general == pytest.approx((p * (1 - sigma) ** 2 * slope + q * sigma**2 * slope).sum(), rel=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_it_is_finite_for_a_discriminator_that_is_sure(plugins: Plugins, name: str) -> None:
    module = injector(plugins, f"roth(f_divergence={name})").float()
    scale = torch.tensor(200.0, requires_grad=True)
    for sign in (1, -1):
        value = module(lambda x, s=sign: s * scale * x.flatten(1).sum(1, keepdim=True), REAL.float(), REAL.float() + 1)
        (gradient,) = torch.autograd.grad(value, scale)
        assert value.isfinite()
        assert gradient.isfinite()


def test_half_precision_needs_the_loss_scale(plugins: Plugins) -> None:
    """Slopes of 2e-8 are zero in float16; times the scale they are not. A power of two changes nothing else."""

    def in_half(images: Tensor) -> Tensor:
        return ((images.half() * 0.5).float() * 4e-8).flatten(1).sum(1, keepdim=True)

    module = injector(plugins, "roth(f_divergence=reverse_kl)").float()
    real, fake = REAL.float(), FAKE.float()
    assert module(in_half, real, fake) == 0
    module.loss_scale = torch.tensor(2.0**16)
    assert float(module(in_half, real, fake)) == pytest.approx(float(module.gamma) / 2 * 18 * 2e-8**2, rel=1e-3)
    plain = module(lambda x: discriminate(x.double()).float(), real, fake)
    module.loss_scale = 1.0
    assert plain == module(lambda x: discriminate(x.double()).float(), real, fake)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_its_gradient_in_the_discriminator_is_exact(plugins: Plugins, name: str) -> None:
    """Through the weights too: they are no constants."""
    module = injector(plugins, f"roth(f_divergence={name})")

    def penalty(a: Tensor, b: Tensor) -> Tensor:
        value = module(lambda x: (torch.tanh(x.flatten(1) @ a.T) @ b)[:, None], REAL[:2], FAKE[:2])
        assert isinstance(value, Tensor)
        return value

    inputs = (A.clone().requires_grad_(), B.clone().requires_grad_())
    assert torch.autograd.gradcheck(penalty, inputs)
    assert torch.autograd.gradgradcheck(penalty, inputs)


def test_it_is_annealed_and_gone_at_zero(plugins: Plugins) -> None:
    module = injector(plugins, "roth(start=2, end=0, until=0.5, schedule=linear)")
    full = module(discriminate, REAL, FAKE).item()
    module.set_progress(0.25)
    assert module(discriminate, REAL, FAKE).item() == pytest.approx(full / 2, rel=1e-6)
    module.set_progress(0.5)
    assert module(discriminate, REAL, FAKE).item() == 0.0


def test_the_default_is_that_of_the_paper(plugins: Plugins) -> None:
    """From 2 down by a factor of a hundred, exponentially."""
    module = injector(plugins, "roth")
    values = []
    for fraction in (0.0, 0.5, 1.0):
        module.set_progress(fraction)
        values.append(module.state_dict()["gamma"].item())
    assert values == pytest.approx([2, 0.2, 0.02], rel=1e-6)


def test_in_training_it_flattens_the_discriminator(tmp_path: Path) -> None:
    """Same data, latents and start, without R1: the slope at real images, as R1 measures it, is smaller with it."""

    def slope(noise: str) -> float:
        options: dict[str, Any] = SMALL | {
            "outdir": str(tmp_path),
            "quiet": True,
            "noise": noise,
            "gamma": 0,
            "tick": 0.16,
        }
        run = noisegan.train(plugins=Plugins(entry_points=False), **options)
        state = read_tensors(snapshots(run)[-1])
        return steepness({name[2:]: t for name, t in state.items() if name.startswith("D.")}, run)

    assert slope("additive + roth(start=20, schedule=constant)") < 0.7 * slope("additive")


def steepness(weights: dict[str, Tensor], run: Path) -> float:
    """Mean |grad psi|^2 of a snapshot's discriminator at real images."""
    D = Discriminator(**read_facts(find_snapshot(run))["networks"]["D"])
    D.load_state_dict(weights)
    images = to_float(open_dataset("digits", resolution=8).images(range(32)))
    return r1_penalty(lambda x: D(x, torch.zeros(32, 0)), images)[0].mean().item()


def test_a_resumed_run_anneals_to_the_same_bits(tmp_path: Path) -> None:
    resumed_equals_unbroken("roth", tmp_path)
