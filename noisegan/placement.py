"""Where in the generator a strategy stands: in which layers, and at which point of a layer.

Both are arguments of every strategy that acts in layers, so that an ablation needs no code:
`additive(layers=0-5)`, `fuzzy(placement=pre-conv, layers=b8-b16)`.

A layer, downwards, and where noise can enter:

    pre-conv          the map that enters the convolution, before the style scales it
    inside-style      the convolution's output before demodulation: within the style block, as in the first StyleGAN,
                      where noise weighs inversely to the style's magnitudes (Karras et al. 2020, section 2.1)
    post-conv         after demodulation, before bias and activation, where StyleGAN2 puts it (the default)
    post-activation   after bias and activation
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

PointInLayer = Literal["post-conv", "pre-conv", "post-activation", "inside-style"]

_LARGEST = 1024
_INDICES = 17
"""Layers of a network of the largest resolution. Larger numbers are resolutions."""
_SYNTAX = (
    "write all, or layer indices counted from the input and resolutions, such as 3, 0-5, 64- (64 px and up), -32, "
    "b8-b16, or several of these in quotes with commas between"
)


def _as_text(value: Any) -> Any:
    """Numbers and lists, as an expression or a TOML file may hold them."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple) and value and all(isinstance(item, int | str) for item in value):
        return ",".join(map(str, value))
    return value


class Where(BaseModel):
    """Layers, and the point within each.

    Raises:
        ValidationError: (pydantic's) for another point, or layers that cannot be read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    placement: PointInLayer = Field(default="post-conv", description="where in a layer noise enters")
    layers: Annotated[str, BeforeValidator(_as_text)] = Field(
        default="all", description="in which layers: all, or indices and resolutions such as 0-5 or 64-"
    )

    @field_validator("layers")
    @classmethod
    def _can_be_read(cls, layers: str) -> str:
        if layers.strip() != "all":
            list(map(_range, layers.split(",")))
        return layers

    def selects(self, index: int, resolution: int) -> bool:
        """Whether the layer of this index (from 0 at the input) and resolution is meant."""
        return self.layers.strip() == "all" or any(
            low <= (resolution if by_resolution else index) <= high
            for by_resolution, low, high in map(_range, self.layers.split(","))
        )


def _range(text: str) -> tuple[bool, int, int]:
    """Whether resolutions are meant, and the limits of `3`, `0-5`, `64-`, `-32`, `b8-b16`."""
    found = re.fullmatch(r"(b?\d+)?\s*(-)?\s*(b?\d+)?", text.strip())
    if found is None or not (found[1] or found[3]) or (found[3] and not found[2]):
        raise ValueError(f"{text.strip()!r} does not name layers; {_SYNTAX}")
    ends = [found[1], found[3] if found[2] else found[1]]
    kinds = {_is_resolution(end) for end in ends if end}
    if len(kinds) == 2:
        raise ValueError(f"{text.strip()!r} goes from an index to a resolution; {_SYNTAX}")
    low, high = (int(end.lstrip("b")) if end else missing for end, missing in zip(ends, (0, _LARGEST), strict=True))
    if low > high:
        raise ValueError(f"{text.strip()!r} goes from {low} down to {high}; {_SYNTAX}")
    return kinds.pop(), low, high


def _is_resolution(text: str) -> bool:
    number = int(text.lstrip("b"))
    if not text.startswith("b") and number < _INDICES:
        return False
    if number < 4 or number > _LARGEST or number & (number - 1):
        raise ValueError(f"{text!r} is neither a layer index (0 to {_INDICES - 1}) nor a resolution (4, 8, ... 1024)")
    return True
