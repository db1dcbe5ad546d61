"""Instance noise and the Roth penalty on toys that can be worked out: how far one stands for the other.

Huszar, "From Instance Noise to Gradient Regularisation" (2017), calls the penalty of Roth et al. 2017 analytic instance
noise. With l the logistic loss as a function of D = sigmoid(psi), noise of variance g = s^2 changes it by

    (g / 2) E[l''(D) |grad D|^2]  +  (g / 2) E[l'(D) Laplace D]  +  O(g^2)

The first term is the penalty: l'' |grad D|^2 is (1 - p)^2 |grad psi|^2 for real and p^2 |grad psi|^2 for generated
images. The second is left out. It is zero where D is harmonic, so gradients agree to first order in g there; it is zero
in sum where D is the best discriminator, as p_real / D = p_fake / (1 - D) cancels; elsewhere they differ at first order
by its gradient. The tests show all three. Images are points: 1 x 1 pixels with one or two channels. Expectations over
noise are Gauss-Hermite sums, so nothing is sampled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from noisegan.api import ImageInjector, ImageSite, PenaltyInjector
from noisegan.core.losses import discriminator_loss
from noisegan.core.rng import Streams
from noisegan.manager import Plugins

NODES = 16
"""Of Gauss-Hermite quadrature per dimension: exact for polynomials of degree 31."""

Logits = Callable[[Tensor], Tensor]


def points(*rows: list[float]) -> Tensor:
    """Points in the plane or on the line as images, [N, C, 1, 1]."""
    return torch.tensor(rows, dtype=torch.float64)[:, :, None, None]


LINE = (points([-0.4], [-0.3]), points([0.25], [0.5]))
PLANE = (points([-0.4, 0.1], [-0.3, -0.2]), points([0.25, 0.3], [0.5, -0.1]))
"""Real and generated points: disjoint supports."""


def noise(plugins: Plugins, channels: int, s: float) -> ImageInjector:
    (strategy,) = plugins.parse("instance(schedule=constant)")
    assert strategy.spec.image is not None
    module = strategy.spec.image(ImageSite(resolution=1, channels=channels), strategy.params).double()
    module.get_buffer("strength").fill_(s)  # to all digits of float64
    return module


def penalty(plugins: Plugins, g: float) -> PenaltyInjector:
    (strategy,) = plugins.parse("roth(schedule=constant)")
    assert strategy.spec.penalty is not None
    module = strategy.spec.penalty(strategy.params).double()
    module.get_buffer("gamma").fill_(g)
    return module


def quadrature(channels: int) -> tuple[Tensor, Tensor]:
    """Standard normal nodes [Q, C, 1, 1] and weights [Q]."""
    x, w = np.polynomial.hermite_e.hermegauss(NODES)
    w = w / math.sqrt(2 * math.pi)
    grid = torch.tensor(list(itertools.product(x, repeat=channels)), dtype=torch.float64)
    weights = torch.tensor([math.prod(row) for row in itertools.product(w, repeat=channels)], dtype=torch.float64)
    return grid[:, :, None, None], weights


def plain_loss(logits: Logits, real: Tensor, fake: Tensor) -> Tensor:
    return discriminator_loss(logits(real), logits(fake)).mean()


def noisy_loss(module: ImageInjector, logits: Logits, real: Tensor, fake: Tensor) -> Tensor:
    """D's loss under instance noise, its expectation over the noise by quadrature."""
    nodes, weights = quadrature(real.shape[1])
    total = torch.zeros((), dtype=torch.float64)
    for images, sign in ((real, -1.0), (fake, 1.0)):
        for image in images:
            seen = module(image.expand(len(nodes), -1, -1, -1), nodes)
            total = total + (weights * F.softplus(sign * logits(seen)[:, 0])).sum() / len(images)
    return total


def penalised_loss(term: PenaltyInjector, logits: Logits, real: Tensor, fake: Tensor) -> Tensor:
    return plain_loss(logits, real, fake) + term(logits, real, fake)


def left_out(logits: Logits, real: Tensor, fake: Tensor, g: float) -> Tensor:
    """(g / 2) E[l'(D) Laplace D], l = -log D on real images and -log(1 - D) on generated ones."""
    total = torch.zeros((), dtype=torch.float64)
    for images, kind in ((real, "real"), (fake, "fake")):
        x = images.clone().requires_grad_()
        D = torch.sigmoid(logits(x)[:, 0])
        (gradient,) = torch.autograd.grad(D.sum(), x, create_graph=True)
        laplacian = torch.zeros_like(D)
        for c in range(x.shape[1]):
            if gradient.requires_grad:
                (row,) = torch.autograd.grad(gradient[:, c].sum(), x, create_graph=True)
                laplacian = laplacian + row[:, c, 0, 0]
        slope = -1 / D if kind == "real" else 1 / (1 - D)
        total = total + (slope * laplacian).mean()
    return g / 2 * total


def gradient(loss: Tensor, parameters: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def orders(differences: list[float]) -> list[float]:
    """By which power of s differences fall, s being halved from one to the next."""
    return [math.log2(a / b) for a, b in itertools.pairwise(differences)]


STRENGTHS = (0.05, 0.025, 0.0125)


def harmonic(channels: int) -> tuple[Logits, list[Tensor]]:
    """D(x) = a + b x on the line; in the plane also c (x^2 - y^2): harmonic for all parameters."""
    a = torch.tensor(0.45, dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0.2, -0.15][:channels], dtype=torch.float64, requires_grad=True)
    c = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def logits(images: Tensor) -> Tensor:
        x = images.flatten(1)
        D = a + x @ b
        if channels == 2:
            D = D + c * (x[:, 0].square() - x[:, 1].square())
        return torch.logit(D)[:, None]

    return logits, [a, b, c] if channels == 2 else [a, b]


@pytest.mark.parametrize("channels", [1, 2])
def test_gradients_of_a_harmonic_discriminator_agree_to_first_order(plugins: Plugins, channels: int) -> None:
    """Disjoint supports; gradients in all parameters of D. The difference falls as s^4, the effect itself as s^2."""
    logits, parameters = harmonic(channels)
    real, fake = (LINE, PLANE)[channels - 1]
    plain = gradient(plain_loss(logits, real, fake), parameters)
    effects, differences = [], []
    for s in STRENGTHS:
        noisy = gradient(noisy_loss(noise(plugins, channels, s), logits, real, fake), parameters)
        analytic = gradient(penalised_loss(penalty(plugins, s**2), logits, real, fake), parameters)
        effects.append((noisy - plain).norm().item())
        differences.append((noisy - analytic).norm().item())
    assert orders(effects) == pytest.approx([2, 2], abs=0.05)
    assert orders(differences) == pytest.approx([4, 4], abs=0.1)
    assert differences[-1] < 0.01 * effects[-1]


def network(channels: int) -> tuple[Logits, list[Tensor]]:
    """A small smooth discriminator, harmonic nowhere."""
    source = Streams(2)["network"].source(ids=[0])
    sizes = ((channels, 6), (6,), (6,))
    parameters = [source.normal(*size)[0].double().requires_grad_() for size in sizes]
    first, bias, last = parameters
    return lambda images: (torch.tanh(images.flatten(1) @ first + bias) @ last)[:, None], parameters


@pytest.mark.parametrize("channels", [1, 2])
def test_what_the_penalty_leaves_out_is_the_laplacian_of_d(plugins: Plugins, channels: int) -> None:
    """For any D: with E[l'(D) Laplace D] put back gradients agree to s^4; without it they differ by s^2."""
    logits, parameters = network(channels)
    real, fake = (LINE, PLANE)[channels - 1]
    without, whole = [], []
    for s in STRENGTHS:
        noisy = gradient(noisy_loss(noise(plugins, channels, s), logits, real, fake), parameters)
        analytic = penalised_loss(penalty(plugins, s**2), logits, real, fake)
        without.append((noisy - gradient(analytic, parameters)).norm().item())
        analytic = penalised_loss(penalty(plugins, s**2), logits, real, fake) + left_out(logits, real, fake, s**2)
        whole.append((noisy - gradient(analytic, parameters)).norm().item())
    assert orders(without) == pytest.approx([2, 2], abs=0.1)
    assert orders(whole) == pytest.approx([4, 4], abs=0.1)


def test_at_the_best_discriminator_the_losses_agree_to_first_order(plugins: Plugins) -> None:
    """Real N(-1/2, 1), generated N(1/2, 1): psi = -x is the best. What is left out cancels between the two, so the
    divergence that the generator lowers is the same to first order (Roth et al. 2017, section 3)."""
    nodes, weights = quadrature(1)

    def loss(psi: Logits, variance: float) -> float:
        spread = math.sqrt(variance)
        real, fake = psi(spread * nodes - 0.5)[:, 0], psi(spread * nodes + 0.5)[:, 0]
        return (weights * (F.softplus(-real) + F.softplus(fake))).sum().item()

    def logits(images: Tensor) -> Tensor:
        return -images.flatten(1)

    effects, differences = [], []
    for s in (0.4, 0.2, 0.1):
        noisy = loss(logits, 1 + s**2)  # the noise adds its variance
        real, fake = nodes - 0.5, nodes + 0.5
        p_real, p_fake = torch.sigmoid(logits(real)[:, 0]), torch.sigmoid(logits(fake)[:, 0])
        omega = (weights * ((1 - p_real) ** 2 + p_fake**2)).sum().item()  # |grad psi| = 1
        effects.append(noisy - loss(logits, 1))
        differences.append(abs(noisy - loss(logits, 1) - s**2 / 2 * omega))
    assert orders(effects) == pytest.approx([2, 2], abs=0.1)
    assert orders(differences) == pytest.approx([4, 4], abs=0.1)


# Does it stabilise? The Dirac-GAN of Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?",
# section 2: real images are one point, generated ones another, D is linear. While the points differ it has no best D.

STEPS, RATE = 250, 0.2


def dirac_gan(plugins: Plugins, dim: int, *, s: float = 0.0, g: float = 0.0) -> list[float]:
    """The minimax game by simultaneous gradient steps, from a generated point at distance 1 of the real one and a flat
    D: D lowers its loss, G raises it.

    Returns:
        Distances from the equilibrium (the generated point on the real one, and D flat), by step.
    """
    module, term = noise(plugins, dim, s), penalty(plugins, g)
    theta = torch.eye(dim, dtype=torch.float64)[0].requires_grad_()
    psi = torch.zeros(dim, dtype=torch.float64, requires_grad=True)
    real = torch.zeros(1, dim, 1, 1, dtype=torch.float64)
    found = []

    def logits(images: Tensor) -> Tensor:
        return (images.flatten(1) @ psi)[:, None]

    for _ in range(STEPS):
        fake = theta.view(1, -1, 1, 1)
        game = noisy_loss(module, logits, real, fake)
        (up,) = torch.autograd.grad(game, theta, retain_graph=True)
        (down,) = torch.autograd.grad(game + term(logits, real, fake), psi)
        with torch.no_grad():
            theta.add_(RATE * up)
            psi.sub_(RATE * down)
        found.append(math.hypot(theta.detach().norm().item(), psi.detach().norm().item()))
    return found


@pytest.mark.parametrize("dim", [1, 2])
def test_the_plain_game_spirals_out_and_either_remedy_converges(plugins: Plugins, dim: int) -> None:
    plain, noisy, analytic = (dirac_gan(plugins, dim, **remedy) for remedy in ({}, {"s": 1.0}, {"g": 1.0}))
    assert min(plain[-50:]) > 1.5
    assert max(noisy[-50:]) < 1e-2
    assert max(analytic[-50:]) < 1e-2
    for found in (noisy, analytic):  # near the equilibrium both are damped alike: eigenvalues (-g/4 +- ...) to order g
        assert (found[-1] / found[-101]) ** (1 / 100) == pytest.approx(math.sqrt(1 - RATE / 2 + RATE**2 / 4), abs=3e-3)
