"""`warp`: noise that moves the features instead of changing them, out(p) = m(p + u(p)).

u is a small smooth displacement field, two maps per sample: an elastic deformation (Simard, Steinkraus, Platt 2003,
section 2, white noise under a Gaussian) with a learned size.

    v = S e S^T,  S_ij = exp(-(i - j)^2 / (2 s^2)), rows of unit norm    [N, 2, H, W], unit variance at every pixel
    u = tanh(r v)                                                        in pixels of the map, dy and dx, below one
    out(p) = sum over a, b in {-1, 0, 1} of q_a(u_y) q_b(u_x) m(p + (a, b))
    q_-1(u) = u (u - 1) / 2,  q_0(u) = 1 - u^2,  q_1(u) = u (u + 1) / 2

The weights are Lagrange interpolation through the neighbours at -1, 0 and 1 on each axis, which is the second-order
Taylor form of m at p with central differences. They are polynomials of u, so zero displacement is the identity with
right derivatives of every order; bilinear interpolation has a kink there. They hold while |u| is at most one pixel,
which tanh sees to. Larger displacements come from sites of lower resolution.

Sums of shifted maps need no scattered writes when they are differentiated, so results on a GPU do not vary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noisegan.api import FeatureInjector, Field, NoiseSite, NoiseSource, Params, StrategySpec, hookimpl


class WarpParams(Params):
    smoothness: float = Field(2.0, ge=0.1, le=256, description="s, width of the Gaussian over the noise, in pixels")
    strength: float = Field(0.0, ge=-10, le=10, description="r at the start, in pixels (learned)")


class WarpNoise(FeatureInjector):
    """out(p) = m(p + u(p)) with |u| < 1 pixel per axis. Beyond its border the map continues with its border values.

    Learned: `strength`, r, [], in pixels of the map; starts at 0, where out = m and dout/dr = v . grad m is not zero.
    """

    def __init__(self, site: NoiseSite, *, smoothness: float, strength: float) -> None:
        super().__init__()
        self.resolution = site.resolution
        self.smoothness = smoothness
        self.strength = nn.Parameter(torch.tensor(strength))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(2, self.resolution, self.resolution)  # [N, 2, H, W]

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        size = self.resolution
        u = self.displacement(noise)  # [N, 2, H, W]
        down, across = _weights(u[:, 0:1]), _weights(u[:, 1:2])  # 3 times [N, 1, H, W]
        m = _extended(x.to(u.dtype))  # [N, C, H + 2, W + 2]
        rows = [m[:, :, a : a + size] for a in range(3)]  # 3 times [N, C, H, W + 2]
        lines = [_blend(across, [row[..., b : b + size] for b in range(3)]) for row in rows]  # 3 times [N, C, H, W]
        return _blend(down, lines).to(x.dtype)

    def displacement(self, noise: Tensor) -> Tensor:
        """u, in pixels, [N, 2, H, W], in float32 at least."""
        dtype = torch.promote_types(noise.dtype, torch.float32)
        i = torch.arange(self.resolution, device=noise.device, dtype=dtype)
        window = torch.exp(-0.5 * ((i[:, None] - i) / self.smoothness).square())  # [H, H]
        window = window / window.square().sum(dim=1, keepdim=True).sqrt()
        with torch.autocast(noise.device.type, enabled=False):
            smooth = window @ noise.to(dtype) @ window.T
        return torch.tanh(self.strength * smooth)


def _weights(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the neighbours at -1, 0 and 1, for a displacement u."""
    return u * (u - 1) / 2, 1 - u.square(), u * (u + 1) / 2


def _blend(weights: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Sum of the products of three weights [N, 1, H, W] and three maps [N, C, H, W]."""
    total = weights[0] * maps[0]
    for weight, m in zip(weights[1:], maps[1:], strict=True):
        total = torch.addcmul(total, weight, m)
    return total


def _extended(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, H + 2, W + 2], borders repeated; the gradient of torch's padding varies on a GPU."""
    x = torch.cat((x[:, :, :1], x, x[:, :, -1:]), dim=2)
    return torch.cat((x[..., :1], x, x[..., -1:]), dim=3)


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="warp",
            params=WarpParams,
            summary="noise as a small smooth displacement field of the feature map, with a learned size",
            reference="elastic deformations of Simard, Steinkraus, Platt 2003, section 2, applied to feature maps",
            identity_at_init=True,
            feature=lambda site, p: WarpNoise(site, smoothness=p.smoothness, strength=p.strength),
        )
    )
