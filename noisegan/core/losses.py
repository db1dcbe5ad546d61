"""The losses of StyleGAN2 (Karras et al. 2020), each per sample so that batches may be split anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from noisegan.ext.convolution import input_gradients_only


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss (Goodfellow et al. 2014): -log sigmoid(D(fake)). [N, 1] -> [N]."""
    return F.softplus(-fake_logits).squeeze(1)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss: -log sigmoid(D(real)) - log(1 - sigmoid(D(fake))). [N, 1] each -> [N]."""
    return (F.softplus(-real_logits) + F.softplus(fake_logits)).squeeze(1)


def r1_penalty(
    discriminate: Callable[[Tensor], Tensor], real: Tensor, *, scale: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Squared gradient norm of the logits at real images (Mescheder et al. 2018).

    Args:
        discriminate: images [N, C, H, W] to logits [N, 1].
        real: [N, C, H, W].
        scale: loss scale of float16; the gradient is taken of scaled logits and scaled back.

    Returns:
        (|grad|^2 [N], logits [N, 1]); the loss is gamma / 2 times the first.
    """
    real = real.detach().requires_grad_(True)
    logits = discriminate(real)
    with input_gradients_only():
        (gradient,) = torch.autograd.grad(logits.sum() * scale, real, create_graph=True)
    return (gradient / scale).square().sum(dim=(1, 2, 3)), logits


def path_lengths(images: Tensor, ws: Tensor, direction: Tensor, *, scale: float | Tensor = 1.0) -> Tensor:
    """Length of J_w^T y per sample (Karras et al. 2020, eq. 4).

    y = direction / sqrt(H W), and the squared length is averaged over the ws. A penalty weight of 2 then is the
    paper's weight ln 2 / (r^2 (ln r - ln 2)) = 2 / (r^2 num_ws), as num_ws = 2 log2(r) - 2.

    Args:
        images: [N, C, H, W], a function of `ws`.
        ws: [N, num_ws, D].
        direction: [N, C, H, W], standard normal.
        scale: loss scale of float16.

    Returns:
        [N]; the loss is (length - running mean)^2.
    """
    y = direction / math.sqrt(images.shape[2] * images.shape[3])
    with input_gradients_only():
        (gradient,) = torch.autograd.grad((images * y).sum() * scale, ws, create_graph=True)
    return (gradient / scale).square().sum(dim=2).mean(dim=1).sqrt()
