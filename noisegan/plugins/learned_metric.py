"""`learned_metric`: noise as a geodesic step under a Riemannian metric that the network learns, one per pixel.

Feng, Zhao, Zha, "Understanding Noise Injection in GANs", ICML 2021, take noise injection as an exponential map
Exp_m(sigma e) on the feature manifold. Here the manifold is R^C, C channels, with a learned local metric g, and the
geodesic is followed to second order. At each pixel x of the feature map,

    v   ~ N(0, g(x)^-1)                          isotropic in the metric
    out = x + r v + (r^2 / 2) a(x, v)            a: acceleration of the geodesic with velocity v

with the last term kept shorter than half of r v (`acceleration.displacement`). Metrics, with functions psi and f that
are learned with the generator:

    conformal   g = e^{2 psi(x)} I               psi: R^C -> R
    diagonal    g = diag(e^{2 psi_i(x)})         psi: R^C -> R^C
    low-rank    g = I + S^T S, S = diag(e^{psi_i(x)}) B       psi: R^C -> R^k, B learned [k, C]
    pullback    g = I + J^T J, J = Df(x)         f: R^C -> R^k made as layers after the site are: bias, activation,
                                                 1 x 1 read-out

Where psi is constant g is flat: with psi = 0, out = x + r e, noise as in `additive` but drawn per channel. A constant
factor of g and r are the same thing, so it is I beside S^T S and not lambda I. Features have length sqrt(C), and so has
e: r compares the two at every C, and the 1 / sqrt(dim) that noise on manifolds of size one needs has no place here.

`pullback` and leaky ReLU: its second derivative is zero wherever it exists, and with it the acceleration; the metric
jumps at the kinks and is flat between. f has the leaky ReLU averaged over logistic noise of scale T instead, whose
derivatives are smooth: phi'(z) = s + (1 - s) sigmoid(z / T), s = 0.2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from noisegan.api import FeatureInjector, Field, NoiseSite, NoiseSource, Params, StrategySpec, hookimpl
from noisegan.plugins.geometry import acceleration
from noisegan.plugins.geometry.acceleration import Factor, Linear, mix

Kind = Literal["conformal", "diagonal", "low-rank", "pullback"]
_USED_BY: dict[str, tuple[Kind, ...]] = {
    "hidden": ("conformal", "diagonal", "low-rank"),
    "rank": ("low-rank", "pullback"),
    "smoothing": ("pullback",),
}
_SLOPE = 0.2
"""Of the generator's leaky ReLU below zero (Karras et al. 2020)."""
_START = 0.1
"""Size of `outward` at the start: psi is about 0.06, so g is near flat, but no weight is without gradient."""


class LearnedMetricParams(Params):
    kind: Kind = Field("conformal", description="family of the metric")
    hidden: int = Field(8, ge=1, le=256, description="width of the network psi; all kinds but pullback")
    rank: int = Field(4, ge=1, le=16, description="k, directions that the metric measures; low-rank and pullback")
    smoothing: float = Field(
        0.25, ge=0.01, le=10, description="T, width of the smoothed kink in units of the features; pullback"
    )
    strength: float = Field(0.0, ge=-10, le=10, description="r at the start (learned)")

    @model_validator(mode="after")
    def _all_is_used(self) -> Self:
        for name, kinds in _USED_BY.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with kind={self.kind}; it is for {', '.join(kinds)}")
        return self


class LogScales(nn.Module):
    """psi(x) = outward tanh(inward x / sqrt(C) + bias) / sqrt(h): R^C -> R^m at each pixel, with its derivative.

    Learned: `inward` [h, C] starts normal, so that inward x / sqrt(C) is of size one; `bias` [h] at 0; `outward`
    [m, h] normal times 0.1. There is no bias behind: a constant of psi is r once more, or the length of the rows of B.
    """

    def __init__(self, channels: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.inward = nn.Parameter(torch.randn(hidden, channels))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.outward = nn.Parameter(_START * torch.randn(outputs, hidden))

    def forward(self, x: Tensor) -> tuple[Tensor, Linear, Linear]:
        """x [N, C, P] -> psi [N, m, P], D psi: [N, C, P] -> [N, m, P], and its transpose."""
        hidden, channels = self.inward.shape
        inward = self.inward.to(x.dtype) / math.sqrt(channels)
        outward = self.outward.to(x.dtype) / math.sqrt(hidden)
        t = torch.tanh(mix(inward, x) + self.bias.to(x.dtype)[:, None])  # [N, h, P]
        slope = 1 - t.square()

        def jvp(v: Tensor) -> Tensor:
            return mix(outward, slope * mix(inward, v))

        def vjp(y: Tensor) -> Tensor:
            return mix(inward.T, slope * mix(outward.T, y))

        return mix(outward, t), jvp, vjp


class LocalMetric(nn.Module, ABC):
    """A metric on R^C for each pixel. `extra`: how many normals a random vector takes beside its C."""

    extra = 0

    @abstractmethod
    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, C, P], normals e [N, C + extra, P] -> v ~ N(0, g^-1) and the acceleration a(x, v), both [N, C, P]."""


class Conformal(LocalMetric):
    """g = e^{2 psi} I."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.psi = LogScales(channels, hidden, 1)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        psi, _, vjp = self.psi(x)  # [N, 1, P]
        v = e * torch.exp(-psi)
        return v, acceleration.conformal(v, vjp(torch.ones_like(psi)))


class Diagonal(LocalMetric):
    """g = diag(e^{2 psi_i})."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.psi = LogScales(channels, hidden, channels)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        psi, jvp, vjp = self.psi(x)  # [N, C, P]
        v = e * torch.exp(-psi)
        return v, acceleration.diagonal(v, psi, jvp, vjp)


class LowRank(LocalMetric):
    """g = I + S^T S, S = diag(e^{psi_i}) B.

    Learned beside psi: `directions` [k, C], B sqrt(C), starts normal, so that a row of B has length about one and g
    is about 2 along it, 1 across.
    """

    def __init__(self, channels: int, hidden: int, rank: int) -> None:
        super().__init__()
        self.extra = rank
        self.psi = LogScales(channels, hidden, rank)
        self.directions = nn.Parameter(torch.randn(rank, channels))

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        C = x.shape[1]
        B = self.directions.to(x.dtype) / math.sqrt(C)
        psi, jvp, vjp = self.psi(x)
        scale = torch.exp(psi)  # [N, k, P]
        gram = scale[:, :, None] * scale[:, None] * (B @ B.T)[..., None]  # [N, k, k, P]
        S = Factor(down=lambda v: scale * mix(B, v), up=lambda y: mix(B.T, scale * y), gram=gram)
        v = S.normal(e[:, :C], e[:, C:])
        return v, acceleration.low_rank(v, S, jvp, vjp)


class Pullback(LocalMetric):
    """g = I + J^T J for f(x) = A phi(x + b) / sqrt(C): bias, activation and 1 x 1 read-out to k numbers.

    f itself is never computed, only J = A diag(phi') / sqrt(C) and D^2f[v, v] = A (phi'' v^2) / sqrt(C).

    Learned: `readout`, A [k, C], starts normal, so that a row of J has length about 0.6 and g is about 1.4 along it;
    `shift`, b [C], at 0 as the layer's own bias.
    """

    def __init__(self, channels: int, rank: int, smoothing: float) -> None:
        super().__init__()
        self.extra = rank
        self.smoothing = smoothing
        self.readout = nn.Parameter(torch.randn(rank, channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        k, C = self.readout.shape
        A = self.readout.to(x.dtype) / math.sqrt(C)
        gate = torch.sigmoid((x + self.shift.to(x.dtype)[:, None]) / self.smoothing)  # [N, C, P]
        slope = _SLOPE + (1 - _SLOPE) * gate  # phi'
        curve = (1 - _SLOPE) / self.smoothing * gate * (1 - gate)  # phi''
        pairs = (A[:, None] * A).flatten(0, 1)  # [k k, C]
        gram = mix(pairs, slope.square()).unflatten(1, (k, k))  # A diag(phi'^2) A^T, [N, k, k, P]
        S = Factor(down=lambda v: mix(A, slope * v), up=lambda y: slope * mix(A.T, y), gram=gram)
        v = S.normal(e[:, :C], e[:, C:])
        return v, acceleration.pullback(S, mix(A, curve * v.square()))


class LearnedMetric(FeatureInjector):
    """One site: a metric and how far to go.

    Learned: `strength`, r [], starts at 0 (no noise until the network asks for it), in units of the features; and the
    metric's parameters, see the classes above. While r is 0 the metric has no effect, so it gets gradient from the
    second step on.
    """

    def __init__(self, site: NoiseSite, metric: LocalMetric, *, strength: float) -> None:
        super().__init__()
        self.resolution, self.channels = site.resolution, site.channels
        self.metric = metric
        self.strength = nn.Parameter(torch.tensor(strength))

    def draw(self, source: NoiseSource) -> Tensor:
        count = self.channels + self.metric.extra
        return source.normal(count, self.resolution, self.resolution)  # [N, C + extra, H, W]

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            points = x.to(exact).flatten(2)  # [N, C, H W]
            v, a = self.metric(points, noise.to(exact).flatten(2))
            out = points + acceleration.displacement(v, a, self.strength.to(exact))
            return out.view_as(x).to(x.dtype)


def _metric(channels: int, p: LearnedMetricParams) -> LocalMetric:
    if p.kind == "conformal":
        return Conformal(channels, p.hidden)
    if p.kind == "diagonal":
        return Diagonal(channels, p.hidden)
    if p.kind == "low-rank":
        return LowRank(channels, p.hidden, p.rank)
    return Pullback(channels, p.rank, p.smoothing)


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="learned_metric",
            params=LearnedMetricParams,
            summary="geodesic steps under a learned local metric, to second order",
            reference="Feng, Zhao, Zha, ICML 2021 (arXiv:2006.05891): noise as an exponential map; metrics are ours",
            identity_at_init=True,
            feature=lambda site, p: LearnedMetric(site, _metric(site.channels, p), strength=p.strength),
        )
    )
