"""How strong is the noise really? The same measure for every strategy, and the learned quantities behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noisegan.api import AnyFeatureInjector
from noisegan.core.generator import Generator
from noisegan.core.noise import StreamNoise
from noisegan.core.rng import MeanSource


@torch.no_grad()
def noise_to_signal(G: Generator, z: Tensor, c: Tensor | None, noise: StreamNoise) -> dict[str, float]:
    """rms(out - mean) / rms(mean) at each feature injector, where mean is its output with noise switched off.

    Args:
        z: [N, z_dim].
        c: [N, c_dim] or None.
        noise: the noise to measure with.

    Returns:
        By noise key, such as `b8.conv0/additive`; 0 where an injector is the identity, not a number where its output
        is none.
    """
    found: dict[str, float] = {}

    def measure(injector: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> None:
        assert isinstance(injector, AnyFeatureInjector)
        x, drawn, *others = inputs
        off = injector.draw(MeanSource(len(x), x.device)).to(drawn.dtype)
        mean = injector.forward(x, off, *others).float()
        power = mean.square().mean()
        ratio = torch.where(power == 0, torch.zeros_like(power), (out.float() - mean).square().mean() / power)
        found[keys[injector]] = float(ratio.sqrt())

    keys: dict[nn.Module, str] = {}
    handles = []
    for layer in G.synthesis.layers():
        for key, _, injector in layer.injectors():
            if isinstance(injector, AnyFeatureInjector):
                keys[injector] = key
                handles.append(injector.register_forward_hook(measure))
    try:
        G(z, c, noise=noise)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def learned_quantities(G: Generator) -> dict[str, float]:
    """Each injector parameter as one number: itself if scalar, else its root mean square.

    Keys such as `b8.conv0/additive/strength`.
    """
    found = {}
    for layer in G.synthesis.layers():
        for key, _, injector in layer.injectors():
            for name, p in injector.named_parameters():
                found[f"{key}/{name}"] = float(p if p.ndim == 0 else p.float().square().mean().sqrt())
    return found
