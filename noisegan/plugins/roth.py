"""`roth`: the gradient penalty that stands for instance noise, Roth et al. 2017.

"Stabilizing Training of Generative Adversarial Networks through Regularization", section 3. D's loss gets (g / 2) Omega
with g the variance of the noise that it stands for, in squared pixels of [-1, 1]. With psi the logits, p =
sigmoid(psi), gradients taken in the images:

    f_divergence=js (the paper's regularised GAN):
        Omega = E_real[(1 - p)^2 |grad psi|^2] + E_fake[p^2 |grad psi|^2]

    any other f (the paper's general Omega_f(Q; T) = E_fake[f*''(T) |grad T|^2], f* the convex conjugate of f):
        Omega = E_fake[r^2 f''(r) |grad psi|^2],   r = exp(psi)

T is the variational function of an f-GAN (Nowozin et al. 2016), whose best value is T = f'(r) with r = p_real / p_fake
the ratio of densities. The logits of this framework's logistic loss estimate log r, whatever f is, so T = f'(exp(psi)).
From f*'(f'(r)) = r follows f*''(T) f''(r) = 1, and grad T = f''(r) r grad psi; hence the form in psi:

    f_divergence       f(r)                             r^2 f''(r)
    kl                 r log r                          r
    reverse_kl         -log r                           1
    pearson            (r - 1)^2                        2 r^2
    squared_hellinger  (sqrt r - 1)^2                   sqrt(r) / 2
    gan                r log r - (r + 1) log(r + 1)     r / (r + 1) = p

`gan` and `js` are the same divergence: where D is at its best, p_fake p = p_real (1 - p), and `gan`'s
E_fake[p |grad psi|^2] = E_fake[(p^2 + p (1 - p)) |grad psi|^2] turns into `js`, whose weights hold on real images too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from noisegan.api import Field, PenaltyInjector, StrategySpec, hookimpl
from noisegan.plugins.schedules import AnnealedParams, Annealing, Schedule

Divergence = Literal["js", "gan", "kl", "reverse_kl", "pearson", "squared_hellinger"]

_LARGEST_LOGIT = 20.0
"""Logits are taken as this at most inside the unbounded weights: a ratio of e^20 squared is still finite in float32."""


class RothParams(AnnealedParams):
    start: float = Field(2.0, ge=0, le=1000, description="g at the start: variance of the noise it stands for")
    end: float = Field(0.02, ge=0, le=1000, description="g from `until` on")
    schedule: Schedule = Field("exponential", description="how it goes from start to end", validate_default=True)
    f_divergence: Divergence = Field("js", description="the f-GAN whose noise expansion it is")


class RothPenalty(PenaltyInjector):
    """(g / 2) Omega. The buffer `gamma`, g, [], changes in `set_progress` only."""

    def __init__(self, *, annealing: Annealing, f_divergence: Divergence) -> None:
        super().__init__()
        self.annealing = annealing
        self.f_divergence = f_divergence
        self.register_buffer("gamma", torch.tensor(annealing(0.0)))
        self.gamma: Tensor

    def set_progress(self, fraction: float) -> None:
        self.gamma.fill_(self.annealing(fraction))

    def forward(self, discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        psi, slope = logits_and_slopes(discriminate, fake, scale=self.loss_scale)  # [N] each
        if self.f_divergence == "js":
            psi_real, slope_real = logits_and_slopes(discriminate, real, scale=self.loss_scale)
            omega = torch.sigmoid(-psi_real).square() * slope_real + torch.sigmoid(psi).square() * slope
        else:
            omega = weight(psi, self.f_divergence) * slope
        return self.gamma / 2 * omega.mean()


def logits_and_slopes(
    discriminate: Callable[[Tensor], Tensor], images: Tensor, *, scale: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Logits psi and |grad psi|^2 of each image, [N, C, H, W] -> [N], [N]; both with their graph.

    `scale`: see `PenaltyInjector.loss_scale`.
    """
    images = images.detach().clone().requires_grad_()
    psi = discriminate(images).squeeze(1)  # [N]
    (gradient,) = torch.autograd.grad(psi.sum() * scale, images, create_graph=True)
    return psi, (gradient / scale).square().sum(dim=(1, 2, 3))


def weight(psi: Tensor, f_divergence: Divergence) -> Tensor:
    """r^2 f''(r) at r = exp(psi), [N] -> [N]; the table above."""
    if f_divergence == "gan":
        return torch.sigmoid(psi)
    if f_divergence == "reverse_kl":
        return torch.ones_like(psi)
    psi = psi.clamp(max=_LARGEST_LOGIT)
    if f_divergence == "kl":
        return psi.exp()
    if f_divergence == "pearson":
        return 2 * (2 * psi).exp()
    return (psi / 2).exp() / 2  # squared Hellinger


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="roth",
            params=RothParams,
            summary="gradient penalty on the discriminator that stands for instance noise, annealed",
            reference="Roth et al. 2017 (arXiv:1705.09367), section 3",
            identity_at_init=True,
            penalty=lambda p: RothPenalty(annealing=p.annealing(), f_divergence=p.f_divergence),
        )
    )
