"""Parameters of strategies that carry features to a manifold: which one, in what units, and how far noise may go."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import ValidationInfo, field_validator

from noisegan.api import Field, Params
from noisegan.plugins.geometry.points import Points, check_points


class CarriedParams(Params):
    """`geodesic` and `normal_coordinates` share these; each names its own default manifold."""

    manifold: str
    group: int | None = Field(
        None,
        ge=1,
        description="channels per point; none: what the manifold's size needs, or all channels where its dimension is "
        "free, or 2 x 2 matrices",
    )
    scale: Literal["dim", "unit"] = Field(
        "dim", description="features and noise are measured in units of sqrt(dim), or of one"
    )
    radius: float = Field(0.99, gt=0, le=1, description="noise stays within this share of the injectivity radius")

    @field_validator("manifold")
    @classmethod
    def _known(cls, value: str) -> str:
        check_points(value, None)
        return value

    @field_validator("group")
    @classmethod
    def _fits(cls, value: int | None, info: ValidationInfo) -> int | None:
        if "manifold" in info.data:
            check_points(info.data["manifold"], value)
        return value

    def unit(self, points: Points) -> float:
        """u of `noisegan.plugins.geometry.points`."""
        return math.sqrt(points.manifold.dim) if points.manifold is not None and self.scale == "dim" else 1.0
