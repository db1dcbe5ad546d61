"""`learned_metric`: noise as a geodesic step under a Riemannian metric that the network learns, one per pixel.

Feng, Zhao, Zha, "Understanding Noise Injection in GANs", ICML 2021, take noise injection as an exponential map
Exp_m(sigma e) on the feature manifold. Here the manifold is R^C, C channels, with a local metric g, and the geodesic is
followed to second order. At each pixel x of the feature map,

    v   ~ N(0, g(x)^-1)                          isotropic in the metric
    out = x + r v + (r^2 / 2) a(x, v)            a: acceleration of the geodesic with velocity v

with the last term kept shorter than half of r v (`acceleration.displacement`). Metrics, with functions psi that are
learned with the generator, or f given by the generator itself:

    conformal   g = e^{2 psi(x)} I               psi: R^C -> R
    diagonal    g = diag(e^{2 psi_i(x)})         psi: R^C -> R^C
    low-rank    g = I + S^T S, S = diag(e^{psi_i(x)}) B       psi: R^C -> R^k, B learned [k, C]
    pullback    g = J^T J, J = Df(x)             f: pixel -> all that the next layers make of it (`Pullback`)

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

from noisegan.api import (
    Ahead,
    AnyFeatureInjector,
    FeatureInjector,
    Field,
    LookAheadInjector,
    NoiseSite,
    NoiseSource,
    Params,
    StrategySpec,
    hookimpl,
)
from noisegan.plugins.geometry import acceleration
from noisegan.plugins.geometry.acceleration import Factor, Linear, mix

Kind = Literal["conformal", "diagonal", "low-rank", "pullback"]
_USED_BY: dict[str, tuple[Kind, ...]] = {
    "hidden": ("conformal", "diagonal", "low-rank"),
    "rank": ("low-rank",),
    "smoothing": ("pullback",),
}
_START = 0.1
"""Size of `outward` at the start: psi is about 0.06, so g is near flat, but no weight is without gradient."""


class LearnedMetricParams(Params):
    kind: Kind = Field("conformal", description="family of the metric")
    hidden: int = Field(8, ge=1, le=256, description="width of the network psi; all kinds but pullback")
    rank: int = Field(4, ge=1, le=16, description="k, directions that the metric measures; low-rank")
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
        return _second_order(x, noise, self.metric, self.strength)


class Pullback(LookAheadInjector):
    """One site: g = J^T J, J = Df(x), where f takes one pixel of the map, all others held, to what the next layers make
    of it: the activation's outputs z [C] there, and the outputs of every convolution that reads z, around it.

    z_i = phi_i(x_i) channel by channel, and what follows is linear in z, so g = D K D with D = diag(phi_i'(x_i)) and K
    [C, C] the same at every pixel of a sample (`seen`). z itself among the outputs makes K >= I: no direction is free.
    With K = L L^T, v = D^-1 L^-T e has covariance g^-1. The metric is constant in z: its geodesics are straight there,
    and bent in x as phi is (`acceleration.componentwise`).

    Learned: `strength`, r [], starts at 0, in units of the next layers' outputs: a step moves them by r |e|. The metric
    has no parameters of its own.
    """

    def __init__(self, site: NoiseSite, *, smoothing: float, strength: float) -> None:
        super().__init__()
        self.resolution, self.channels = site.resolution, site.channels
        self.smoothing = smoothing
        self.strength = nn.Parameter(torch.tensor(strength))

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(self.channels, self.resolution, self.resolution)

    def forward(self, x: Tensor, noise: Tensor, w: Tensor, ahead: Ahead) -> Tensor:
        def metric(points: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
            scale, bias = ahead.scale.to(points.dtype)[..., None], ahead.bias.to(points.dtype)[:, None]
            above, T = 1 - ahead.slope, self.smoothing
            gate = torch.sigmoid(points * (scale / T) + bias / T)  # [N, C, P]
            slope = ahead.slope + above * gate  # phi' / (gain scale)
            bend = (scale * above / T) * (gate * (1 - gate) / slope)  # phi'' / phi'
            v = _whitened(seen(ahead, points.dtype), e) / (ahead.gain * scale * slope)
            return v, acceleration.componentwise(v, bend)

        return _second_order(x, noise, metric, self.strength)


def _whitened(K: Tensor, e: Tensor) -> Tensor:
    """L^-T e with K = L L^T, K [N, C, C], e [N, C, P].

    Nobody asks whether L exists, which a GPU would have to wait for: K >= I, and float32 can tell that up to entries of
    about 1e6, where readers' outputs are a thousand times their inputs.
    """
    root = torch.linalg.cholesky_ex(K).L.mT
    few = e.shape[2] <= e.shape[1]  # pixels; for many it is faster to invert the root
    right = e if few else torch.eye(K.shape[1], dtype=K.dtype, device=K.device).expand_as(K)
    solved: Tensor = torch.linalg.solve_triangular(root, right, upper=True)
    return solved if few else mix(solved, e)


def seen(ahead: Ahead, dtype: torch.dtype) -> Tensor:
    """K [N, C, C]: a change dz of one pixel moves z and the outputs of its readers by dz^T K dz in all, squared."""
    K = torch.eye(len(ahead.bias), dtype=dtype, device=ahead.bias.device).expand(len(ahead.scale), -1, -1)
    for reader in ahead.readers:
        rows = reader.weight.to(dtype).flatten(2)  # [O, C, h w]
        grams = (rows @ rows.mT).flatten(1)  # [O, C C]: output channels apart, as each sample demodulates its own way
        of_sample = (reader.demod.to(dtype).square() @ grams).unflatten(1, K.shape[1:])  # [N, C, C]
        style = reader.style.to(dtype)
        K = K + style[:, :, None] * of_sample * style[:, None]
    return K


def _second_order(
    x: Tensor, noise: Tensor, metric: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], strength: Tensor
) -> Tensor:
    """x [N, C, H, W] moved along geodesics; metric: x [N, C, P], normals [N, C + extra, P] -> v, a [N, C, P]."""
    exact = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        points = x.to(exact).flatten(2)  # [N, C, H W]
        v, a = metric(points, noise.to(exact).flatten(2))
        out = points + acceleration.displacement(v, a, strength.to(exact))
        return out.view_as(x).to(x.dtype)


def _injector(site: NoiseSite, p: LearnedMetricParams) -> AnyFeatureInjector:
    if p.kind == "pullback":
        return Pullback(site, smoothing=p.smoothing, strength=p.strength)
    return LearnedMetric(site, _metric(site.channels, p), strength=p.strength)


def _metric(channels: int, p: LearnedMetricParams) -> LocalMetric:
    if p.kind == "conformal":
        return Conformal(channels, p.hidden)
    if p.kind == "diagonal":
        return Diagonal(channels, p.hidden)
    return LowRank(channels, p.hidden, p.rank)


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="learned_metric",
            params=LearnedMetricParams,
            summary="geodesic steps under a local metric, learned or pulled back from the next layers",
            reference="Feng, Zhao, Zha, ICML 2021 (arXiv:2006.05891): noise as an exponential map; metrics are ours",
            identity_at_init=True,
            feature=_injector,
        )
    )
