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

Sums of shifted maps need no scattered additions when they are differentiated, whose order varies on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

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
        u = self.displacement(noise)  # [N, 2, H, W]
        down, across = _weights(u[:, 0]), _weights(u[:, 1])  # [N, 3, H, W]
        q = (down[:, :, None] * across[:, None]).flatten(1, 2)  # [N, 9, H, W]
        out: Tensor = _Gather.apply(x.to(u.dtype), q)
        return out.to(x.dtype)

    def displacement(self, noise: Tensor) -> Tensor:
        """u, in pixels, [N, 2, H, W], in float32 at least."""
        dtype = torch.promote_types(noise.dtype, torch.float32)
        i = torch.arange(self.resolution, device=noise.device, dtype=dtype)
        window = torch.exp(-0.5 * ((i[:, None] - i) / self.smoothness).square())  # [H, H]
        window = window / window.square().sum(dim=1, keepdim=True).sqrt()
        with torch.autocast(noise.device.type, enabled=False):
            smooth = window @ noise.to(dtype) @ window.T
        return torch.tanh(self.strength * smooth)


def _weights(u: Tensor) -> Tensor:
    """Of the neighbours at -1, 0 and 1, for displacements u: [N, H, W] -> [N, 3, H, W]."""
    return torch.stack((u * (u - 1) / 2, 1 - u.square(), u * (u + 1) / 2), dim=1)


# The sum over neighbours is linear in map and weights, and its derivatives are two more sums of the kind
# T(g, q, m) = sum of g(p) q_j(p) m(p + j). Written out they need a third of the time and keep no map but m and g.


class _Gather(Function):
    """sum_j q_j(p) m(p + j): m [N, C, H, W], q [N, 9, H, W] -> [N, C, H, W]."""

    @staticmethod
    def forward(ctx: Any, m: Tensor, q: Tensor) -> Tensor:
        ctx.save_for_backward(m, q)
        out = torch.zeros_like(m)
        for j, neighbour in enumerate(_neighbours(_extended(m))):
            out.addcmul_(q[:, j : j + 1], neighbour)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g,), (m, q) = gradients, ctx.saved_tensors
        return _Scatter.apply(g, q), _Correlate.apply(g, m)


class _Scatter(Function):
    """What _Gather does, transposed: sum_j q_j(p - j) g(p - j), borders gathering what their repetitions receive."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, q: Tensor) -> Tensor:
        ctx.save_for_backward(g, q)
        out = F.pad(torch.zeros_like(g), (1, 1, 1, 1))  # [N, C, H + 2, W + 2]
        for j, neighbour in enumerate(_neighbours(out)):
            neighbour.addcmul_(q[:, j : j + 1], g)
        for dim in (2, 3):
            out.select(dim, 1).add_(out.select(dim, 0))
            out.select(dim, -2).add_(out.select(dim, -1))
        return out[:, :, 1:-1, 1:-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (v,), (g, q) = gradients, ctx.saved_tensors
        return _Gather.apply(v, q), _Correlate.apply(g, v)


class _Correlate(Function):
    """sum over channels of g(p) m(p + j): g, m [N, C, H, W] -> [N, 9, H, W]."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, m: Tensor) -> Tensor:
        ctx.save_for_backward(g, m)
        return torch.stack([(g * neighbour).sum(dim=1) for neighbour in _neighbours(_extended(m))], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (v,), (g, m) = gradients, ctx.saved_tensors
        return _Gather.apply(m, v), _Scatter.apply(g, v)


def _neighbours(extended: Tensor) -> list[Tensor]:
    """Views of a map with its borders, moved by -1, 0 and 1 on each axis: 9 times [N, C, H, W], rows first."""
    h, w = extended.shape[2] - 2, extended.shape[3] - 2
    return [extended[:, :, a : a + h, b : b + w] for a in range(3) for b in range(3)]


def _extended(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, H + 2, W + 2], borders repeated, of any size from one pixel."""
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
