"""Pivotal tuning: the generator bent around one inverted image.

Roich et al. 2021, "Pivotal Tuning for Latent-based Editing of Real Images": w and noise stay, the weights of the
synthesis network move by Adam at a constant rate (3e-4, 350 steps) to make the image's loss small. Their loss is LPIPS
plus the squared error of pixels; here the squared error joins whatever distances were chosen. Their optional locality
term is left out. Every image has a generator of its own, so images are tuned one after the other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from noisegan.core.adam import Adam
from noisegan.core.generator import Generator
from noisegan.core.layers import settle
from noisegan.core.synthesis import Synthesis
from noisegan.inversion.losses import Loss, Mse, seen


def tune(
    G: Generator,
    ws: Tensor,
    noise: Mapping[str, Tensor],
    target: Tensor,
    loss: Loss,
    *,
    steps: int,
    lr: float,
    progress: Callable[[int], None] | None = None,
) -> tuple[Synthesis, dict[str, list[float]]]:
    """A copy of the synthesis network tuned to one image.

    Args:
        ws: [1, num_ws, D].
        noise: by key, [1, ...].
        target: [1, C, R, R].
        progress: called with the finished steps.

    Returns:
        the tuned network, and the distances before each step by name, with the squared error as `mse`.
    """
    synthesis = copy.deepcopy(G.synthesis)
    settle(synthesis, ws.device)  # as a network that was read from a file lies
    parameters = [parameter.requires_grad_() for parameter in synthesis.parameters()]
    adam = Adam(parameters, lr=lr, fused=ws.device.type in ("cpu", "cuda"))
    prepared, pixels = loss.prepare(target), Mse()
    rgb = [seen(target)]
    history: dict[str, list[float]] = {}
    with torch.enable_grad():
        for step in range(steps):
            image = synthesis(ws, noise)
            values = loss(image, prepared)
            mse = pixels(seen(image), rgb).mean()
            total = loss.total(values).sum() + (0 if "mse" in values else mse)
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            adam.step()
            for name, value in (values | {"mse": mse[None]}).items():
                history.setdefault(name, []).append(float(value.detach()))
            if progress is not None:
                progress(step + 1)
    return synthesis.requires_grad_(False).eval(), history
