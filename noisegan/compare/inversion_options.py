"""How the metric `inversion` is made: the table [evaluation.inversion] of an experiment file, and its column of scores.

[evaluation]
metrics = ["fd", "inversion"]

[evaluation.inversion]         # options of `noisegan invert-eval`, for all networks of the comparison
images = 100
spaces = ["w"]
noises = ["off", "optimised"]
steps = 200
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from noisegan.errors import NoiseganError
from noisegan.inversion.losses import parse_loss
from noisegan.inversion.projector import ProjectorOptions
from noisegan.metrics.columns import INVERSION
from noisegan.validation import explain, no_repeats

REFERENCE = "mean distance of held-out images after projection (Karras et al. 2020, appendix D)"


class InversionOptions(BaseModel):
    """The table. The first space with the first kind of noise, on held-out images, makes the score."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    images: int = Field(100, ge=1, description="held-out real images, the same for all networks")
    own_images: int | None = Field(None, ge=0, description="images of each network itself; default: as many")
    spaces: tuple[Literal["w", "w+", "z", "pti"], ...] = Field(
        ("w",), min_length=1, description="what is searched; the first makes the score"
    )
    noises: tuple[Literal["off", "fixed", "optimised"], ...] = Field(
        ("off", "optimised"), min_length=1, description="what becomes of the noise; the first makes the score"
    )
    steps: int = Field(ProjectorOptions.steps, ge=1, description="steps of each inversion")
    loss: str = Field(ProjectorOptions.loss, description="distances with weights, as of `noisegan project`")
    lr: float = Field(ProjectorOptions.lr, ge=0, description="largest learning rate")
    noise_weight: float = Field(ProjectorOptions.noise_weight, ge=0, description="weight of the noise's regulariser")
    pti_steps: int = Field(ProjectorOptions.pti_steps, ge=1, description="steps of the tuning, in the space pti")
    pti_lr: float = Field(ProjectorOptions.pti_lr, ge=0, description="learning rate of the tuning")
    seed: int = Field(ProjectorOptions.seed, ge=0, description="of perturbations and of the latents' statistics")
    noise_seed: int = Field(ProjectorOptions.noise_seed, ge=0, description="of the noise that inversions start from")
    class_index: int | None = Field(None, ge=0, description="class of a conditional network; needed for space z")
    data: str | None = Field(None, description="real images that were not trained on; default: as [train]")
    resize: str | None = Field(None, description="how they are resized; default: as for training")
    crop: str | None = Field(None, description="how they are cropped; default: as for training")
    draw_seed: int = Field(0, ge=0, description="of the draw of images")
    allow_trained: bool = Field(False, description="draw from training images too, and say which they are")
    hard_labels: tuple[int, ...] = Field((), description="classes to report by themselves")
    batch: int = Field(16, ge=1, description="images at a time")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of large layers")

    @field_validator("spaces", "noises", "hard_labels")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return no_repeats(values)

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, loss: str) -> str:
        try:
            parse_loss(loss)
        except NoiseganError as error:
            raise ValueError(str(error)) from None
        return loss

    @property
    def own(self) -> int:
        """How many images each network makes of its own."""
        return self.images if self.own_images is None else self.own_images

    @property
    def projector(self) -> ProjectorOptions:
        """Without space and noise, which are the factors."""
        return ProjectorOptions(
            steps=self.steps,
            loss=self.loss,
            lr=self.lr,
            noise_weight=self.noise_weight,
            pti_steps=self.pti_steps,
            pti_lr=self.pti_lr,
            seed=self.seed,
            noise_seed=self.noise_seed,
            class_index=self.class_index,
        )

    @property
    def column(self) -> InversionColumn:
        return InversionColumn(self.spaces[0], self.noises[0], self.loss)


def read_options(content: Mapping[str, Any]) -> InversionOptions:
    """Raises:
    NoiseganError: for an unknown option, or a value that is not allowed.
    """
    try:
        return InversionOptions.model_validate(dict(content))
    except ValidationError as error:
        raise NoiseganError(explain(error, InversionOptions)) from None


@dataclass(frozen=True)
class InversionColumn:
    """The mean distance over held-out images of one space with one kind of noise."""

    space: str
    noise: str
    loss: str
    name: str = INVERSION
    key: str = INVERSION
    extractor: None = None
    better: Literal["lower", "higher"] = "lower"
    reference: str = REFERENCE

    @property
    def title(self) -> str:
        return f"Inversion ({self.space}, noise {self.noise}, {self.loss})"
