"""`normal_coordinates`: noise drawn in geodesic normal coordinates through a smooth frame, out = Exp_m(E_m(sigma xi)).

Feng, Zhao, Zha, "Understanding Noise Injection in GANs", ICML 2021, use normal coordinates without saying which:
in them a neighbourhood of m is R^dim, and geodesics from m are its rays. They depend on an orthonormal frame E_m of
tangent vectors at m. Isotropic noise does not see the frame; with a strength of its own for every coordinate, Sigma is
diagonal in a frame that has a name (`from_normal` of every manifold). At every pixel, for every point of d channels:

    x    = carry(m / u)                       u = sqrt(dim)
    xi   = sigma e / u,  e ~ N(0, I)          [dim], sigma per coordinate
    xi  <- xi tanh(|xi| / rho) rho / |xi|     |xi| is the distance from x to Exp_x(E_x xi)
    out  = u bring_back(Exp_x(E_x xi))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noisegan.api import FeatureInjector, Field, NoiseSite, NoiseSource, StrategySpec, hookimpl
from noisegan.plugins.carried import CarriedParams
from noisegan.plugins.geometry.points import points_of
from noisegan.plugins.geometry.span import exp_features


class NormalCoordinatesParams(CarriedParams):
    manifold: str = Field(
        "poincare_ball",
        description="a manifold, with its size or without: sphere, sphere(dim=7), see noisegan manifolds",
    )
    sigma: Literal["per-coordinate", "shared"] = Field(
        "per-coordinate", description="strength: one number per coordinate of the frame, or one per site"
    )
    strength: float = Field(0.0, ge=-10, le=10, description="sigma at the start (learned)")


class NormalCoordinatesNoise(FeatureInjector):
    """One site.

    Learned: `strength`, sigma, [K, 1, 1] or [], K coordinates of all points and of the channels left over; starts at 0
    (no noise until the network asks for it), in units of the feature map, whose standard deviation is about one.
    """

    def __init__(self, site: NoiseSite, p: NormalCoordinatesParams) -> None:
        super().__init__()
        self.resolution, self.radius = site.resolution, p.radius
        self.points = points_of(p.manifold, p.group, site.channels, framed=True)
        self.unit = p.unit(self.points)
        shape = (self.points.num_normals, 1, 1) if p.sigma == "per-coordinate" else ()
        self.strength = nn.Parameter(torch.full(shape, p.strength))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(self.points.num_normals, self.resolution, self.resolution)  # [N, K, H, W]

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return self._exp(x.to(wide), self.strength * noise.to(wide)).to(x.dtype)

    def added(self, noise: Tensor) -> Sequence[tuple[Tensor, Tensor]] | None:
        return [(noise, self.strength)] if self.points.flat else None

    def _exp(self, x: Tensor, e: Tensor) -> Tensor:
        if self.points.flat:
            return x + e
        f, rest = self.points.split(x)  # [N, G, d, H, W], [N, rest, H, W]
        xi, e_rest = self.points.split_noise(e)  # [N, G, dim, H, W], [N, rest, H, W]
        moved = exp_features(self.points, f, xi, xi.new_ones(()), unit=self.unit, radius=self.radius)
        return self.points.join(moved, rest + e_rest)


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="normal_coordinates",
            params=NormalCoordinatesParams,
            summary="noise in geodesic normal coordinates, with a strength for each coordinate of a smooth frame",
            reference="Feng, Zhao, Zha, Understanding Noise Injection in GANs, ICML 2021 (arXiv:2006.05891)",
            identity_at_init=True,
            feature=NormalCoordinatesNoise,
        )
    )
