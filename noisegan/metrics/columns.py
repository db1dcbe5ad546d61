"""Which scores are made: one column per metric and extractor. Numbers of two extractors never share a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from noisegan.api import Metric
from noisegan.errors import NoiseganError, near_match
from noisegan.manager import Plugins

FID_EXTRACTOR = "inception"
"""The Frechet distance on the features of this network, and of no other, is called FID."""
INVERSION = "inversion"
"""The metric that is not made of features: a comparison inverts images into each network to know it."""


class Column(Protocol):
    """A score as results and reports know it. `key` names it in files; `extractor` is None if it has no features."""

    @property
    def key(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def extractor(self) -> str | None: ...
    @property
    def title(self) -> str: ...
    @property
    def better(self) -> Literal["lower", "higher"]: ...
    @property
    def reference(self) -> str: ...


@dataclass(frozen=True)
class FeatureColumn:
    """A metric on an extractor; its key is such as `fd@efficientnet-lite0`."""

    name: str
    extractor: str
    metric: Metric

    @property
    def key(self) -> str:
        return f"{self.name}@{self.extractor}"

    @property
    def title(self) -> str:
        """As tables show it: `FD (efficientnet-lite0)`, and `FID` on the original network alone."""
        if self.extractor == FID_EXTRACTOR:
            return "FID" if self.name == "fd" else self.metric.title
        return f"{self.metric.title} ({self.extractor})"

    @property
    def better(self) -> Literal["lower", "higher"]:
        return self.metric.better

    @property
    def reference(self) -> str:
        return self.metric.reference


def describe_column(column: Column) -> dict[str, Any]:
    """Plain data for results.json."""
    return {
        "key": column.key,
        "name": column.name,
        "extractor": column.extractor,
        "title": column.title,
        "better": column.better,
        "reference": column.reference,
    }


def choose_columns(
    metrics: Sequence[str], extractors: Sequence[str], plugins: Plugins, *, samples: int, real_samples: int
) -> list[FeatureColumn]:
    """All metrics on all extractors, the first metric on the first extractor in front.

    `fid` means `fd` on the extractor `inception`, and on no other.

    Raises:
        NoiseganError: for an unknown metric, one that is not made of features, `fid` without its extractor, or fewer
            images than a metric needs.
    """
    if not metrics or not extractors:
        raise NoiseganError(
            f"name at least one {'extractor' if metrics else 'metric'}, such as {'fd' if extractors else FID_EXTRACTOR}"
        )
    known = plugins.registered["metric"]
    columns: list[FeatureColumn] = []
    for name in metrics:
        if name == INVERSION:
            raise NoiseganError(
                f"the metric {INVERSION!r} belongs to `noisegan compare`; for one network there is `noisegan "
                "invert-eval`"
            )
        if name != "fid" and name not in known:
            raise NoiseganError(f"unknown metric {name!r}{near_match(name, [*known, 'fid', INVERSION])}")
        if name == "fid" and FID_EXTRACTOR not in extractors:
            raise NoiseganError(
                f"'fid' is the Frechet distance on the extractor {FID_EXTRACTOR!r} only, and the extractors here are "
                f"{', '.join(extractors)}: add {FID_EXTRACTOR!r} to them, or ask for 'fd'"
            )
        real_name, on = ("fd", [FID_EXTRACTOR]) if name == "fid" else (name, extractors)
        for extractor in on:
            column = FeatureColumn(real_name, extractor, known[real_name][0])
            if column not in columns:
                columns.append(column)
    for column in columns:
        few, what = min((samples, "samples"), (real_samples, "real_samples"))
        if few < column.metric.minimum:
            raise NoiseganError(
                f"the metric {column.name!r} needs at least {column.metric.minimum} images of either kind, and {what} "
                f"is {few}: raise it, or leave the metric out"
            )
    return columns
