"""The noise of an inversion: off, fixed, or optimised, for whatever a strategy draws.

How a tensor is optimised depends on what `draw` made it of, which is found out by listening to the source it draws
from:

    normal    exactly the normals that it asked for, in any order and shape: they themselves
    uniform   exactly the uniforms that it asked for: the normals z behind them, u = Phi(z), so that u stays in [0, 1)
    derived   anything computed from them: not optimised, unless the strategy says how (`Injector.regularise`)

Maps are regularised by their autocorrelation, all tensors are renormalised after each step
(`noisegan.inversion.regulariser`), or as the strategy says. A tensor on which the image does not depend (a strength of
zero, the threshold of a dropout mask) stays as drawn: optimising it would change nothing but the mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from noisegan.api import AnyFeatureInjector, Injector
from noisegan.core.generator import Generator
from noisegan.core.noise import StreamNoise
from noisegan.core.rng import Streams, StreamSource
from noisegan.inversion.regulariser import autocorrelation, is_map, renormalised

NOISES = ("off", "fixed", "optimised")
Kind = Literal["normal", "uniform", "derived"]
_PROBE_ID = 0
_LARGEST_UNIFORM = 1 - 2.0**-24


@dataclass(frozen=True)
class NoiseInfo:
    """What is known of one noise tensor: its injector, its kind, and whether the image depends on it."""

    key: str
    injector: Injector
    kind: Kind
    matters: bool

    @property
    def says_how(self) -> bool:
        """Whether the strategy has a regulariser of its own."""
        return type(self.injector).regularise is not Injector.regularise

    @property
    def optimised(self) -> bool:
        return self.matters and (self.kind != "derived" or self.says_how)


def describe_noise(G: Generator) -> list[NoiseInfo]:
    """What there is to optimise in a network's noise, in the order of its sites. Independent of any target."""
    device = G.mapping.w_avg.device
    infos = []
    drawn = {}
    for layer in G.synthesis.layers():
        for key, stream, injector in layer.injectors():
            source = _Listener(Streams(0)[f"noise/{stream}"].source(ids=[_PROBE_ID], device=device))
            with torch.no_grad():
                drawn[key] = injector.draw(source)
            if drawn[key].numel():
                infos.append((key, injector, source.kind_of(drawn[key])))
    matters = _influential(G, drawn)
    return [NoiseInfo(key, injector, kind, key in matters) for key, injector, kind in infos]


class NoiseVariables:
    """The optimised noise of a batch.

    Args:
        infos: what `describe_noise` found.
        start: all noise by key, [N, ...]; what is not optimised stays so.
        optimise: whether anything is.
    """

    def __init__(self, infos: Sequence[NoiseInfo], start: Mapping[str, Tensor], *, optimise: bool) -> None:
        self._start = dict(start)
        self._infos = {info.key: info for info in infos if optimise and info.optimised}
        self.leaves = {key: self._leaf(key).requires_grad_() for key in self._infos}

    def _leaf(self, key: str) -> Tensor:
        value = self._start[key].detach().clone()
        if self._infos[key].kind != "uniform" or self._infos[key].says_how:
            return value
        # between the numbers that the generator of uniforms can make
        behind: Tensor = torch.special.ndtri(value.clamp(2.0**-25, _LARGEST_UNIFORM))
        return behind

    def tensors(self) -> dict[str, Tensor]:
        """All noise by key, as the generator takes it; differentiable in `leaves`."""
        return self._start | {key: self._as_drawn(key, leaf) for key, leaf in self.leaves.items()}

    def _as_drawn(self, key: str, leaf: Tensor) -> Tensor:
        if self._infos[key].kind != "uniform" or self._infos[key].says_how:
            return leaf
        uniform: Tensor = torch.special.ndtr(leaf).clamp_max(_LARGEST_UNIFORM)
        return uniform

    def penalty(self) -> Tensor:
        """The regulariser, per sample: [N], or zero-dimensional where there is nothing to regularise."""
        maps, terms = [], []
        for key, info in self._infos.items():
            own = info.injector.regularise(self.leaves[key])
            if own is not None:
                terms.append(own)
            elif isinstance(info.injector, AnyFeatureInjector) and is_map(tuple(self.leaves[key].shape[1:])):
                maps.append(self.leaves[key])
        total = autocorrelation(maps)
        for term in terms:
            total = total + term
        return total

    @torch.no_grad()
    def renormalise(self) -> None:
        """Put every optimised tensor back where draws lie; called after each step."""
        for key, info in self._infos.items():
            leaf = self.leaves[key]
            own = info.injector.renormalise(leaf)
            if own is None:
                own = leaf if info.kind == "derived" else renormalised(leaf)
            leaf.copy_(own)


def frozen_noise(G: Generator, ids: Sequence[int], *, mode: str, seed: int) -> dict[str, Tensor]:
    """The noise that an inversion starts from: frozen draws of the noise seed, or off; [N, ...] by key.

    In the dtype of the network, so that a float64 network is inverted in float64.
    """
    drawn = G.draw_noise("off" if mode == "off" else StreamNoise(Streams(seed), ids=ids), len(ids))
    return {key: tensor.to(G.mapping.w_avg.dtype) for key, tensor in drawn.items()}


def _influential(G: Generator, noise: Mapping[str, Tensor]) -> set[str]:
    """Keys of the noise that the image depends on, at the mean w: those with a gradient that is not all zero."""
    dtype, device = G.mapping.w_avg.dtype, G.mapping.w_avg.device
    with torch.enable_grad():
        leaves = {key: tensor.detach().to(dtype).requires_grad_() for key, tensor in noise.items() if tensor.numel()}
        if not leaves:
            return set()
        image = G.synthesis(G.mapping.w_avg.detach().expand(1, G.num_ws, -1), leaves)
        weights = Streams(0)["inversion/probe"].source(ids=[0], device=device).normal(*image.shape[1:]).to(dtype)
        if not image.requires_grad:
            return set()
        gradients = torch.autograd.grad((image * weights).sum(), list(leaves.values()), allow_unused=True)
    return {key for key, g in zip(leaves, gradients, strict=True) if g is not None and bool(g.count_nonzero())}


class _Listener:
    """A `NoiseSource` that keeps what it gave."""

    def __init__(self, source: StreamSource) -> None:
        self.batch = source.batch
        self._source = source
        self._normals: list[Tensor] = []
        self._uniforms: list[Tensor] = []

    def normal(self, *shape: int) -> Tensor:
        self._normals.append(self._source.normal(*shape))
        return self._normals[-1].clone()

    def uniform(self, *shape: int) -> Tensor:
        self._uniforms.append(self._source.uniform(*shape))
        return self._uniforms[-1].clone()

    def kind_of(self, drawn: Tensor) -> Kind:
        """Whether a tensor holds exactly the numbers that were asked for."""
        for kind, given in (("normal", self._normals), ("uniform", self._uniforms)):
            numbers = torch.cat([tensor.flatten() for tensor in given]) if given else drawn.new_zeros(0)
            if numbers.numel() == drawn.numel() == math.prod(drawn.shape) and torch.equal(
                numbers.sort().values, drawn.flatten().sort().values
            ):
                return kind  # type: ignore[return-value]
        return "derived"
