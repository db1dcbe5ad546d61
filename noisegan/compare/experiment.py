"""The experiment file: what a comparison compares, on what, how long, and how it is scored.

name = "fashion-noise"
baseline = "none"
replicates = 3

[train]                       # options of `noisegan train`, shared by all variants
data = "fashion-mnist"
kimg = 8

[[variants]]
noise = "none"

[[variants]]
noise = "fuzzy(alpha=0.3)"
label = "fuzzy, less of it"

[evaluation]
extractors = ["efficientnet-lite0"]
samples = 2000
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from noisegan.compare.inversion_options import InversionOptions
from noisegan.compare.pairing import UNPAIRING
from noisegan.core.config import TrainConfig
from noisegan.core.data import BUILT_IN
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins
from noisegan.metrics.columns import INVERSION
from noisegan.validation import explain, no_repeats

OWN_OPTIONS = {"noise": "[[variants]]", "seed": "seeds or replicates", "outdir": "--outdir", "desc": "label"}
"""Training options that an experiment sets itself, and where it does."""


DATA_OPTIONS = ("data", "resolution", "resize", "crop", "mirror", "cond")
"""Training options that decide what the real images are."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Variant(_Section):
    """A strategy with its parameters, under a name."""

    noise: str = Field(description="a strategy expression, such as fuzzy(alpha=0.3)")
    label: str = Field("", description="its name in tables; default: the expression")
    train: dict[str, Any] = Field(
        default_factory=dict, description="training options of its own; see allow_differences"
    )

    @property
    def slug(self) -> str:
        """The label as a part of file names; two labels never share one, even where case does not count."""
        plain = re.sub(r"[^a-z0-9-]+", "-", self.label.lower()).strip("-")[:60]
        if plain == self.label:
            return plain
        return f"{plain}-{hashlib.sha256(self.label.encode()).hexdigest()[:6]}".lstrip("-")


class Evaluation(_Section):
    """How snapshots are scored."""

    metrics: tuple[str, ...] = Field(
        ("fd", "kid", "precision", "recall", "density", "coverage"),
        min_length=1,
        description="scores; the first one, on the first extractor, decides the verdict; inversion has no extractor",
    )
    extractors: tuple[str, ...] = Field(("st-lpips-alex",), min_length=1, description="feature extractors")
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="seeds of the samples; scores are averaged over them"
    )
    samples: int = Field(2000, ge=2, description="generated images per snapshot and evaluation seed")
    real_samples: int = Field(10_000, ge=2, description="real images at most")
    snapshots: Literal["all", "final"] = Field("all", description="score all snapshots (learning curves) or the final")
    inversion: InversionOptions = Field(
        default_factory=lambda: InversionOptions.model_validate({}), description="how the metric inversion is made"
    )

    @field_validator("metrics", "extractors", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return no_repeats(values)


class Experiment(_Section):
    """A comparison. Made by `read_experiment` or from keyword arguments; `resolve` fills in what was left open."""

    name: str = Field("comparison", min_length=1, description="the title of the report")
    baseline: str = Field("", description="label of the variant that others are compared with; default: the first")
    replicates: int | None = Field(None, ge=1, description="number of training seeds, 0 and up; default 3")
    seeds: tuple[int, ...] | None = Field(None, min_length=1, description="training seeds, instead of replicates")
    train: dict[str, Any] = Field(description="training options shared by all variants, data and kimg among them")
    variants: tuple[Variant, ...] = Field(min_length=2, description="what is compared")
    evaluation: Evaluation = Field(
        default_factory=lambda: Evaluation.model_validate({}), description="how it is scored"
    )
    selection: Literal["final", "best"] = Field("final", description="the snapshot of a run that counts")
    equal_time: bool = Field(False, description="compare at equal training time too")
    allow_differences: tuple[str, ...] = Field((), description="training options that may differ between variants")
    allow_unpaired: bool = Field(False, description="compare runs that are not paired, and say so in the report")
    alpha: float = Field(0.05, ge=1e-4, le=0.5, description="significance level, over all variants of a metric")

    def __init__(self, /, **content: Any) -> None:
        """Raises:
        NoiseganError: for an unknown or missing key, or a value that is not allowed.
        """
        try:
            super().__init__(**content)
        except ValidationError as error:
            raise NoiseganError(explain(error, Experiment)) from None

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if seeds is None else no_repeats(seeds)

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        if self.seeds is not None and self.replicates is not None:
            raise ValueError("give replicates or seeds, not both")
        if (self.equal_time or self.selection == "best") and self.evaluation.snapshots == "final":
            which = "equal_time" if self.equal_time else "selection = 'best'"
            raise ValueError(f"{which} needs the scores of all snapshots: set evaluation.snapshots = 'all'")
        if self.selection == "best" and self.evaluation.metrics[0] == INVERSION:
            raise ValueError(
                "selection = 'best' chooses a snapshot by the first metric, and 'inversion' is known of the chosen one "
                "only: put another metric in front of it, or set selection = 'final'"
            )
        if self.equal_time and self.evaluation.metrics == (INVERSION,):
            raise ValueError(
                "equal_time compares snapshots on the way, and 'inversion' is known of the one that counts only: name "
                "another metric too, such as 'fd'"
            )
        return self

    @property
    def inverts(self) -> bool:
        """Whether the metric `inversion` is asked for."""
        return INVERSION in self.evaluation.metrics

    def resolve(self, plugins: Plugins) -> Experiment:
        """With everything filled in and checked against the training options and the plugins.

        Raises:
            NoiseganError: for a bad training option or strategy, two variants of one label, a baseline that is none of
                them, or an option of a variant's own that is not allowed to differ.
        """
        variants = tuple(v.model_copy(update={"label": v.label or v.noise}) for v in self.variants)
        labels = [v.label for v in variants]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise NoiseganError(f"two variants have the label {twice[0]!r}: give one of them another `label`")
        if self.baseline and self.baseline not in labels:
            raise NoiseganError(f"the baseline {self.baseline!r} is not a variant; they are {', '.join(labels)}")
        seeds = self.seeds or tuple(range(self.replicates or 3))
        train = dict(self.train)
        if isinstance(train.get("data"), str):
            train["data"] = _whole_path(train["data"])
        inversion = self.evaluation.inversion
        if inversion.data is not None:
            inversion = inversion.model_copy(update={"data": _whole_path(inversion.data)})
        update: dict[str, Any] = {
            "variants": variants,
            "baseline": self.baseline or labels[0],
            "seeds": seeds,
            "train": train,
        }
        update["evaluation"] = self.evaluation.model_copy(update={"inversion": inversion})
        resolved = self.model_copy(update=update | {"replicates": None})
        for variant in variants:
            resolved._check_own_options(variant)
            config = resolved.config(variant, seeds[0]).resolve()
            plugins.parse(config.noise)
        return resolved

    def config(self, variant: Variant, seed: int) -> TrainConfig:
        """The training options of one run, its folder left open."""
        return TrainConfig(**({"outdir": "."} | self.train | variant.train), noise=variant.noise, seed=seed)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as experiment.json holds it."""
        return self.model_dump(mode="json", exclude={"replicates"})

    def _check_own_options(self, variant: Variant) -> None:
        for where, options in (("[train]", self.train), (f"variant {variant.label!r}", variant.train)):
            for name in options:
                if name in OWN_OPTIONS:
                    raise NoiseganError(f"{where} must not set {name!r}: an experiment sets it by {OWN_OPTIONS[name]}")
        if not isinstance(self.train.get("data"), str):
            raise NoiseganError('[train] lacks data, what all variants are trained on, such as data = "digits"')
        for name in variant.train:
            if name in DATA_OPTIONS:
                raise NoiseganError(
                    f"variant {variant.label!r} sets {name!r} for itself, but all variants are trained and scored on "
                    "the same images: set it in [train], or make two experiments"
                )
            if name not in self.allow_differences:
                raise NoiseganError(
                    f"variant {variant.label!r} sets {name!r} for itself, but only the noise may differ between "
                    f"variants; to compare with that difference, set allow_differences = [{name!r}]"
                )
        unpairing = [name for name in variant.train if name in UNPAIRING]
        if unpairing and not self.allow_unpaired:
            raise NoiseganError(
                f"variant {variant.label!r} sets {unpairing[0]!r} for itself: its runs would not be paired with the "
                "others'; to compare all the same, set allow_unpaired = true, and the report will say so"
            )
        if "kimg" not in self.train and "kimg" not in variant.train:
            raise NoiseganError(
                "[train] lacks kimg, the length of each training in thousands of images, such as kimg = 8"
            )


def read_experiment(path: str | Path) -> Experiment:
    """The experiment in a TOML file.

    Raises:
        NoiseganError: when the file cannot be read, is no TOML, or holds something unknown.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NoiseganError(f"cannot read the experiment {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise NoiseganError(f"{path} is not a TOML file: {error}") from None
    try:
        return Experiment(**content)
    except NoiseganError as error:
        raise NoiseganError(f"{path}: {error}") from None


def _whole_path(data: str) -> str:
    return data if data in BUILT_IN else str(Path(data).expanduser().absolute())


def refuse_another(known: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse to go on in the folder of another experiment.

    Variants and seeds may be added, and the evaluation, the name and the level changed: no run is worthless by that.

    Raises:
        NoiseganError: naming what differs.
    """
    differing = [
        f"train.{name} {known['train'].get(name)!r} -> {now['train'].get(name)!r}"
        for name in sorted(known["train"].keys() | now["train"].keys())
        if known["train"].get(name) != now["train"].get(name)
    ]
    before, after = ({v["label"]: v for v in e["variants"]} for e in (known, now))
    differing += [f"variant {label!r} is gone" for label in before if label not in after]
    differing += [
        f"variant {label!r} has changed" for label in before if label in after and before[label] != after[label]
    ]
    differing += [f"seed {seed} is gone" for seed in known["seeds"] if seed not in now["seeds"]]
    if differing:
        raise NoiseganError(
            f"{folder} holds another experiment: {'; '.join(differing)}. Choose another --outdir; only new variants, "
            "more seeds and another evaluation may be added to an experiment"
        )
