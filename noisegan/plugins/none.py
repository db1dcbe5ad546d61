"""`none`: the feature map as it is. The ablation of Karras et al. 2020, "Analyzing and Improving the Image Quality of
StyleGAN"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from noisegan.api import FeatureInjector, NoiseSource, Params, StrategySpec, hookimpl


class NoneParams(Params):
    """No parameters."""


class NoInjector(FeatureInjector):
    """out = m."""

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(0)

    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        return x

    def added(self, noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        return []


@hookimpl
def register_strategies(register: Callable[[StrategySpec[Any]], None]) -> None:
    register(
        StrategySpec(
            name="none",
            params=NoneParams,
            summary="no noise: the baseline every claim about noise needs",
            reference="ablation of Karras et al. 2020 (arXiv:1912.04958)",
            identity_at_init=True,
            feature=lambda site, params: NoInjector(),
        )
    )
