"""results.json as the report reads it: checked once, here, so that no later step meets a missing key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from noisegan.errors import NoiseganError

SCHEMA, SCHEMA_VERSION = "noisegan-results", 1

Interval = tuple[float, float]
Verdict = Literal["better", "worse", "cannot tell"]


class Part(BaseModel):
    """A piece of results.json; keys that the report does not show may come and go."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Experiment(Part):
    name: str
    baseline: str
    seeds: list[int] = Field(min_length=1)
    selection: str = "final"
    alpha: float = Field(0.05, gt=0, lt=1)


class Parameters(Part):
    G: int
    D: int
    added: int


class Variant(Part):
    label: str
    slug: str
    noise: str
    provenance: list[dict[str, Any]]
    parameters: Parameters
    done: int
    failed: int


class Config(Part):
    shared: dict[str, Any]
    differing: dict[str, dict[str, Any]]
    allowed: list[str] = []


class Certificate(Part):
    variant: str
    seed: int
    data: str
    initial_weights: str
    data_order: str
    z: str
    steps: int


class Pairing(Part):
    paired: bool
    problems: list[str]
    certificates: list[Certificate]


class MetricInfo(Part):
    key: str
    name: str
    extractor: str | None
    title: str
    better: Literal["lower", "higher"]
    reference: str
    primary: bool


class RunScore(Part):
    value: float | None
    std_error: float | None = None


class CurvePoint(Part):
    nimg: int
    scores: dict[str, float | None]


class NoiseLog(Part):
    """Noise-to-signal ratio of each injector, one value per entry of `kimg`; null where it is no number."""

    kimg: list[float] = []
    strength: dict[str, list[float | None]] = {}


class Run(Part):
    variant: str
    seed: int
    status: Literal["done", "failed"]
    error: str | None = None
    nimg: int | None = None
    scores: dict[str, RunScore] = {}
    curve: list[CurvePoint] = []
    noise: NoiseLog = NoiseLog()
    noise_std: float | None = None
    files: dict[str, str] = {}


class Summary(Part):
    metric: str
    variant: str
    n: int
    mean: float | None
    std: float | None = None
    interval: Interval | None = None


class Pair(Part):
    seed: int
    variant: float
    baseline: float
    difference: float


class Comparison(Part):
    metric: str
    variant: str
    baseline: str
    pairs: list[Pair]
    n: int
    mean_difference: float | None
    std_difference: float | None = None
    interval: Interval | None = None
    interval_method: str = "t"
    interval_bca: Interval | None = None
    p_value: float | None = None
    test: str | None = None
    p_wilcoxon: float | None = None
    p_holm: float | None = None
    smallest_detectable: float | None = None
    verdict: Verdict
    sentence: str


class RunTime(Part):
    variant: str
    seed: int
    train_s: float | None = None
    sec_per_kimg: float | None = None
    evaluation_s: float | None = None
    peak_memory_gb: float | None = None


class EqualTimeRun(Part):
    variant: str
    seed: int
    nimg: int


class EqualTime(Part):
    seconds: float
    runs: list[EqualTimeRun]
    comparisons: list[Comparison]


class Timing(Part):
    finished: str | None = None
    runs: list[RunTime] = []
    equal_time: EqualTime | None = None


class Results(Part):
    """What docs/results.md describes. `raw` is the file as plain data, for what is shown word for word."""

    experiment: Experiment
    data: dict[str, Any]
    environment: dict[str, Any]
    variants: list[Variant] = Field(min_length=1)
    config: Config
    pairing: Pairing
    extractors: dict[str, dict[str, Any]]
    metrics: list[MetricInfo] = Field(min_length=1)
    protocol: dict[str, Any]
    runs: list[Run]
    summary: list[Summary]
    comparisons: list[Comparison]
    verdict: str
    timing: Timing = Timing()
    raw: dict[str, Any] = Field(default={}, exclude=True)

    @property
    def baseline(self) -> Variant:
        return next(v for v in self.variants if v.label == self.experiment.baseline)

    @property
    def others(self) -> list[Variant]:
        return [v for v in self.variants if v.label != self.experiment.baseline]

    def done(self, label: str) -> list[Run]:
        """The finished runs of a variant, in the order of their seeds."""
        return sorted((r for r in self.runs if r.variant == label and r.status == "done"), key=lambda r: r.seed)

    def summary_of(self, metric: str, label: str) -> Summary | None:
        return next((s for s in self.summary if (s.metric, s.variant) == (metric, label)), None)

    def comparison_of(self, metric: str, label: str) -> Comparison | None:
        return next((c for c in self.comparisons if (c.metric, c.variant) == (metric, label)), None)


def read_results(path: Path) -> Results:
    """Read and check a results.json.

    Raises:
        NoiseganError: when it is missing, is no results.json, is of another version, or is damaged.
    """
    again = "run `noisegan compare` again, which writes it anew"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NoiseganError(
            f"there is no {path.name} in {path.parent}: give the folder of a finished comparison (--outdir)"
        ) from None
    except OSError as error:
        raise NoiseganError(f"cannot read {path}: {error.strerror or error}; choose a file that can be read") from error
    except ValueError:  # broken JSON or no text at all
        raise NoiseganError(f"{path} is damaged, it is no JSON; {again}") from None
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise NoiseganError(f"{path} is not the result of a comparison (schema {SCHEMA!r} is missing); {again}")
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise NoiseganError(
            f"{path} has schema_version {raw.get('schema_version')!r}, this noisegan reads version {SCHEMA_VERSION}; "
            "use the noisegan that wrote it"
        )
    try:
        results = Results.model_validate({**raw, "raw": raw})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise NoiseganError(f"{path} is damaged: {where}: {first['msg'].lower()}; {again}") from None
    _check_names(results, path, again)
    return results


def _check_names(results: Results, path: Path, again: str) -> None:
    """Every variant and metric that is spoken of is listed, once; so are the baseline and one primary metric."""
    labels, keys = [v.label for v in results.variants], [m.key for m in results.metrics]
    spoken = [
        (results.experiment.baseline, labels, "variant"),
        *((r.variant, labels, "variant") for r in results.runs),
        *((s.variant, labels, "variant") for s in results.summary),
        *((c.variant, labels, "variant") for c in results.comparisons),
        *((s.metric, keys, "metric") for s in results.summary),
        *((c.metric, keys, "metric") for c in results.comparisons),
    ]
    for name, known, kind in spoken:
        if known.count(name) != 1:
            raise NoiseganError(f"{path} is damaged: {kind} {name!r} is listed {known.count(name)} times; {again}")
    if sum(m.primary for m in results.metrics) != 1:
        raise NoiseganError(f"{path} is damaged: it needs one primary metric; {again}")


def load_array(folder: Path, run: Run, kind: str, ndim: int) -> NDArray[Any] | None:
    """The array that `run.files` names as `kind`, or None where it is not there.

    Args:
        folder: of the comparison.
        kind: `samples`, `noise_images` (uint8 [n, C, R, R]) or `noise_std` (float32 [k, R, R]).
        ndim: number of dimensions that it must have.

    Raises:
        NoiseganError: when the file is no such array.
    """
    name = run.files.get(kind)
    if name is None or not (folder / name).is_file():
        return None
    try:
        array: NDArray[Any] = np.load(folder / name, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        array = np.empty(0)
    channels_fit = ndim == 3 or (array.ndim == 4 and array.shape[1] in (1, 3, 4) and array.dtype == np.uint8)
    if array.ndim != ndim or not array.size or not channels_fit:
        raise NoiseganError(
            f"{folder / name} is damaged: it is not the array that docs/results.md describes; "
            "remove its folder and run `noisegan compare` again"
        )
    return array
