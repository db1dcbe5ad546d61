"""Annealing: a strength that falls (or rises) over a share of training. `instance` and `roth` share it.

With t = min(fraction / until, 1), where fraction is the share of training done:

    constant:     start while t < 1, then end
    linear:       (1 - t) start + t end
    cosine:       c start + (1 - c) end,   c = (1 + cos(pi t)) / 2
    exponential:  start^(1 - t) end^t

All four begin at `start` and are exactly `end` from `until` on. The value is a function of the fraction alone, so a
resumed run goes on with the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationInfo, field_validator

from noisegan.api import Field, Params

Schedule = Literal["constant", "linear", "cosine", "exponential"]


@dataclass(frozen=True)
class Annealing:
    """A schedule with its ends; called with the share of training done.

    Raises:
        ValueError: for `exponential` from or to 0, which no factor per step reaches.
    """

    schedule: Schedule
    start: float
    end: float
    until: float

    def __post_init__(self) -> None:
        if self.schedule == "exponential" and min(self.start, self.end) <= 0:
            raise ValueError(
                f"schedule=exponential multiplies its way from start to end, so both must be above 0; found "
                f"start={self.start:g}, end={self.end:g}: give a small end such as {self._small_end():g}, or choose "
                "linear or cosine"
            )

    def __call__(self, fraction: float) -> float:
        """The value at this share of training, 0 to 1."""
        t = min(fraction / self.until, 1.0)
        if self.schedule == "constant":
            return self.start if t < 1 else self.end
        if self.schedule == "linear":
            return (1 - t) * self.start + t * self.end
        if self.schedule == "cosine":
            c = (1 + math.cos(math.pi * t)) / 2
            return c * self.start + (1 - c) * self.end
        return float(self.start ** (1 - t) * self.end**t)

    def _small_end(self) -> float:
        """A hundredth of the start, as Roth et al. 2017 anneal."""
        return self.start / 100 if self.start > 0 else 0.01


class AnnealedParams(Params):
    """Parameters of a strategy whose strength is annealed; a strategy says what `start` and `end` are."""

    start: float
    end: float
    until: float = Field(1.0, gt=0, le=1, description="share of training after which it stays at `end`")
    schedule: Schedule = Field("linear", description="how it goes from start to end", validate_default=True)

    @field_validator("schedule")
    @classmethod
    def _reaches_its_end(cls, schedule: Schedule, others: ValidationInfo) -> Schedule:
        if {"start", "end", "until"} <= others.data.keys():  # else one of these is refused already
            Annealing(schedule, **{name: others.data[name] for name in ("start", "end", "until")})
        return schedule

    def annealing(self) -> Annealing:
        return Annealing(self.schedule, start=self.start, end=self.end, until=self.until)
