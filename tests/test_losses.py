"""Losses, penalties and the moving average against their formulas and against explicit derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noisegan.core.ema import ema_decay, update_ema
from noisegan.core.losses import discriminator_loss, generator_loss, path_lengths, r1_penalty
from noisegan.core.rng import Streams

LOGITS = torch.tensor([[-3.0], [-0.1], [0.0], [2.0]], dtype=torch.float64)
OTHERS = torch.tensor([[1.0], [-2.0], [0.5], [0.0]], dtype=torch.float64)


def normal(name: str, n: int, *shape: int) -> Tensor:
    return Streams(6)[name].source(ids=range(n)).normal(*shape).double()


def log_sigmoid(x: Tensor) -> np.ndarray:  # type: ignore[type-arg]
    return np.log(1 / (1 + np.exp(-x.numpy())))[:, 0]


def test_the_generator_wants_its_images_taken_for_real() -> None:
    np.testing.assert_allclose(generator_loss(LOGITS).numpy(), -log_sigmoid(LOGITS), rtol=1e-12)


def test_the_discriminator_wants_to_tell_them_apart() -> None:
    expected = -log_sigmoid(LOGITS) - np.log(1 - np.exp(log_sigmoid(OTHERS)))
    np.testing.assert_allclose(discriminator_loss(LOGITS, OTHERS).numpy(), expected, rtol=1e-12)


def test_losses_stay_finite_for_extreme_logits() -> None:
    extreme = torch.tensor([[-1e4], [1e4]])
    assert generator_loss(extreme).tolist() == [1e4, 0]
    assert discriminator_loss(extreme, extreme).tolist() == [1e4, 1e4]


def test_r1_of_a_linear_discriminator_is_its_squared_norm() -> None:
    w, real = normal("w", 1, 2, 3, 3), normal("real", 4, 2, 3, 3)
    penalty, logits = r1_penalty(lambda x: (x * w).sum(dim=(1, 2, 3))[:, None], real)
    torch.testing.assert_close(penalty, w.square().sum().expand(4))
    torch.testing.assert_close(logits[:, 0], torch.einsum("nchw,chw->n", real, w[0]))


def curved(x: Tensor) -> Tensor:
    """A discriminator whose gradient differs from sample to sample."""
    return torch.tanh(x * torch.linspace(-1, 2, x[0].numel(), dtype=x.dtype).view(x.shape[1:])).sum((1, 2, 3))[:, None]


def test_r1_is_the_squared_norm_of_finite_differences() -> None:
    real, step = normal("real", 3, 1, 2, 3), 1e-5
    slopes = []
    for i in range(6):
        e = torch.zeros(6, dtype=torch.float64)
        e[i] = step
        slopes.append((curved(real + e.view(1, 2, 3)) - curved(real - e.view(1, 2, 3))) / (2 * step))
    expected = torch.cat(slopes, dim=1).square().sum(dim=1)
    torch.testing.assert_close(r1_penalty(curved, real)[0], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_loss_scale_leaves_no_trace(scale: float) -> None:
    real = normal("real", 3, 1, 2, 3)
    torch.testing.assert_close(r1_penalty(curved, real, scale=scale)[0], r1_penalty(curved, real)[0])
    ws = normal("ws", 2, 3, 4).requires_grad_()
    direction = normal("direction", 2, 1, 4, 2)
    lengths = path_lengths(tiny_synthesis(ws), ws, direction, scale=scale)
    torch.testing.assert_close(lengths, path_lengths(tiny_synthesis(ws), ws, direction))


def test_r1_trains_the_discriminator_and_leaves_the_images_alone() -> None:
    D, real = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double(), normal("r", 3, 1, 2, 3)
    weights = [D[1].weight, D[3].weight]
    penalty, _ = r1_penalty(D, real)
    found = torch.autograd.grad(penalty.sum(), weights)

    def explicit() -> Tensor:  # grad of W2 tanh(W1 x + b) is W1^T (W2 * (1 - tanh^2))
        inner = 1 - torch.tanh(D[1](real.flatten(1))).square()
        return ((inner * D[3].weight) @ D[1].weight).square().sum()

    for f, e in zip(found, torch.autograd.grad(explicit(), weights), strict=True):
        torch.testing.assert_close(f, e)
    assert not real.requires_grad


def tiny_synthesis(ws: Tensor) -> Tensor:
    """[N, 3, 4] -> [N, 1, 4, 2], curved, different in every w."""
    matrix = normal("matrix", 8, 12).to(ws.dtype)
    return torch.sin(ws.flatten(1) @ matrix.T).view(-1, 1, 4, 2)


def test_path_lengths_are_norms_of_the_jacobian_times_the_direction() -> None:
    ws, direction = normal("ws", 2, 3, 4), normal("direction", 2, 1, 4, 2)
    leaf = ws.clone().requires_grad_()
    found = path_lengths(tiny_synthesis(leaf), leaf, direction)
    for n in range(2):
        jacobian = torch.func.jacrev(lambda w: tiny_synthesis(w[None])[0])(ws[n])  # [1, 4, 2, 3, 4]
        y = direction[n] / math.sqrt(4 * 2)
        product = torch.einsum("chwld,chw->ld", jacobian, y)  # J^T y, [num_ws, D]
        torch.testing.assert_close(found[n].detach(), (product.square().sum() / 3).sqrt())


def test_path_lengths_have_finite_gradients_that_agree_with_differences() -> None:
    ws, direction = normal("ws", 2, 3, 4).requires_grad_(), normal("direction", 2, 1, 4, 2)
    assert torch.autograd.gradcheck(lambda w: path_lengths(tiny_synthesis(w), w, direction), (ws,))


@pytest.mark.parametrize("resolution", [8, 16, 32, 256, 1024])
def test_a_weight_of_two_is_the_weight_of_the_paper(resolution: int) -> None:
    """Karras et al. 2020, appendix B, for the unscaled length; 1 / (r^2 num_ws) is inside `path_lengths`."""
    num_ws = 2 * math.log2(resolution) - 2
    paper = math.log(2) / (resolution**2 * (math.log(resolution) - math.log(2)))
    assert 2 / (resolution**2 * num_ws) == pytest.approx(paper, rel=1e-12)


def test_a_weight_of_two_penalises_as_the_paper_does() -> None:
    r, num_ws = 8, 4
    matrix, ws = normal("big", r * r, num_ws * 5), normal("ws", 1, num_ws, 5).requires_grad_()
    direction = normal("direction", 1, 1, r, r)
    unscaled = (matrix.T @ direction.flatten()).norm()  # J_w^T y of eq. 4
    found = path_lengths((ws.flatten(1) @ matrix.T).view(1, 1, r, r), ws, direction)
    paper = math.log(2) / (r**2 * (math.log(r) - math.log(2)))
    torch.testing.assert_close(2 * found[0].square(), paper * unscaled.square())


@pytest.mark.parametrize("batch", [1, 16, 1000])
def test_after_the_half_life_a_weight_counts_half(batch: int) -> None:
    steps = 10_000 // batch
    assert ema_decay(batch, 10**6, 10_000, None) ** steps == pytest.approx(1 / 2, rel=1e-9)


def test_ramp_up_shortens_the_half_life_to_a_share_of_the_past() -> None:
    assert ema_decay(16, 0, 10_000, 0.05) == 0  # the average starts as the network
    assert ema_decay(16, 20_000, 10_000, 0.05) == pytest.approx(0.5 ** (16 / 1000))
    assert ema_decay(16, 10**6, 10_000, 0.05) == pytest.approx(0.5 ** (16 / 10_000))
    assert ema_decay(16, 0, 10_000, None) == pytest.approx(0.5 ** (16 / 10_000))


def test_the_average_moves_parameters_and_copies_buffers() -> None:
    average, network = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        average.weight.fill_(1)
        network.weight.fill_(5)
        network.running_mean.fill_(7)  # type: ignore[union-attr]
    update_ema(average, network, 0.75)
    assert average.weight.tolist() == [2, 2]
    assert average.running_mean.tolist() == [7, 7]  # type: ignore[union-attr]
    assert network.weight.tolist() == [5, 5]


def test_the_average_refuses_another_network() -> None:
    with pytest.raises(ValueError, match="zip"):
        update_ema(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.5)
