"""`geodesic`: noise as an exponential map, out = Exp_m(Sigma(m) e) on a manifold that the features are carried to.

Feng, Zhao, Zha, "Understanding Noise Injection in GANs", ICML 2021: noise fills geodesic balls around what the
generator makes of its latent, the skeleton mu, by Exp_mu(sigma e) with e in geodesic normal coordinates.

At every pixel the channels are cut into points of d features, see `noisegan.plugins.geometry.points`:

    x    = carry(m / u)                      u = sqrt(dim)
    v    = T_x(sigma e / u)                  T_x: isotropic tangent noise, linear in e
    v   <- v tanh(|v| / rho) rho / |v|       never beyond the share `radius` of the injectivity radius
    out  = u bring_back(Exp_x(v))

On flat space that is m + sigma e. On a sphere, carry keeps the direction of m and puts its norm aside, so that noise
turns the direction by an angle of about sigma; in hyperbolic space m are normal coordinates at the origin.
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
from noisegan.plugins.semantic import semantic_map

Sigma = Literal["shared", "per-channel", "spatial", "from-features"]


class GeodesicParams(CarriedParams):
    manifold: str = Field(
        "sphere", description="a manifold, with its size or without: sphere, sphere(dim=7), see noisegan manifolds"
    )
    sigma: Sigma = Field(
        "shared", description="strength: one number, one per channel, one per pixel, or fuzzy's map of the features"
    )
    noise: Literal["auto", "isotropic", "shared"] = Field(
        "auto", description="isotropic: normals for every channel; shared: one per pixel; auto: shared if euclidean"
    )
    strength: float | None = Field(
        None, ge=-10, le=10, description="sigma at the start (learned); none: 0, and 1 with sigma=from-features"
    )


class GeodesicNoise(FeatureInjector):
    """One site.

    Learned, and why each starts where it does:

    * `strength`, sigma, starts at 0 (no noise until the network asks for it, as `additive`); [] for `shared`, [C, 1, 1]
      for `per-channel` (one per normal), [H, W] for `spatial`. In units of the feature map, whose standard deviation is
      about one.
    * with `from-features`, `strength`, [], starts at 1 and `scale`, `shift` [H, W] and `alpha` [] where those of
      `fuzzy` do: sigma = strength sqrt(H W) times the semantic map, about one at the start.
    """

    def __init__(self, site: NoiseSite, p: GeodesicParams) -> None:
        super().__init__()
        self.resolution, self.sigma_of, self.radius = site.resolution, p.sigma, p.radius
        self.points = points_of(p.manifold, p.group, site.channels)
        space = self.points.manifold
        self.unit = p.unit(self.points)
        one_map = p.noise == "shared" or (p.noise == "auto" and space is not None and space.name == "euclidean")
        self.num_normals = 1 if one_map else self.points.num_normals
        size = site.resolution
        shapes = {"per-channel": (self.points.num_normals, 1, 1), "spatial": (size, size)}
        start = p.strength if p.strength is not None else float(p.sigma == "from-features")
        self.strength = nn.Parameter(torch.full(shapes.get(p.sigma, ()), start))
        if p.sigma == "from-features":
            self.scale = nn.Parameter(torch.ones(size, size))
            self.shift = nn.Parameter(torch.ones(size, size))
            self.alpha = nn.Parameter(torch.tensor(0.5))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(self.num_normals, self.resolution, self.resolution)  # [N, normals or 1, H, W]

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return self._exp(x.to(wide), noise.to(wide), self.sigma(x)).to(x.dtype)

    def sigma(self, x: Tensor) -> Tensor:
        """Strength, to broadcast with noise [N, normals or 1, H, W]."""
        if self.sigma_of != "from-features":
            return self.strength
        return self.strength * self.resolution * semantic_map(x, self.scale, self.shift, self.alpha)  # [N, 1, H, W]

    def added(self, noise: Tensor) -> Sequence[tuple[Tensor, Tensor]] | None:
        return [(noise, self.strength)] if self.points.flat and self.sigma_of != "from-features" else None

    def _exp(self, x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        if self.points.flat:
            return x + sigma * noise
        if self.sigma_of == "per-channel":
            noise, sigma = sigma * noise, sigma.new_ones(())
        f, rest = self.points.split(x)  # [N, G, d, H, W], [N, rest, H, W]
        e, e_rest = self.points.split_noise(noise)  # [N, G, q, H, W], [N, rest, H, W]
        each = sigma.unsqueeze(1) if sigma.dim() == 4 else sigma  # [N, 1, 1, H, W], [H, W] or []
        moved = exp_features(self.points, f, e, each, unit=self.unit, radius=self.radius)
        return self.points.join(moved, rest + sigma * e_rest)


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="geodesic",
            params=GeodesicParams,
            summary="noise as an exponential map on a manifold: Exp_m(sigma e)",
            reference="Feng, Zhao, Zha, Understanding Noise Injection in GANs, ICML 2021 (arXiv:2006.05891)",
            identity_at_init=True,
            feature=GeodesicNoise,
        )
    )
