"""What the page shows, section by section: figures drawn, numbers rounded, images encoded. The template only places it.

`Page` gathers the context of the template in `context` and the files of figures/ in `figures` as it goes.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from noisegan.compare.report import figures as draw
from noisegan.compare.report import grids, numbers, tables
from noisegan.compare.report.results import Comparison, MetricInfo, Results, Run, load_array

MARKS = {"better": "✓", "worse": "✗", "cannot tell": "?"}
"""A verdict is told by its words and this mark; its colour only helps."""


class Page:
    """The report of one comparison, in memory.

    Args:
        folder: of the comparison, where the paths of runs[].files begin.
        sections: (title, HTML) of plugins; the HTML goes in as it is.
    """

    def __init__(self, folder: Path, results: Results, sections: Sequence[tuple[str, str]]) -> None:
        self.folder, self.results = folder, results
        self.figures: dict[str, bytes] = {}
        self.variants = [results.baseline, *results.others]
        self.looks = {look.label: look for look in draw.looks([v.label for v in self.variants])}
        self.primary = next(m for m in results.metrics if m.primary)
        self.sections = [(title, Markup(html)) for title, html in sections]

    def html(self) -> str:
        """The page. Fills `figures`.

        Raises:
            NoiseganError: when an array of a run is damaged.
        """
        environment = Environment(
            loader=PackageLoader("noisegan.compare.report"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(
            plain=plain,
            as_json=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
            digest=lambda text: text.removeprefix("sha256:")[:12],
            p=numbers.p_text,
            significant=numbers.significant,
            duration=numbers.duration,
            data_url=lambda png: "data:image/png;base64," + base64.b64encode(png).decode(),
        )
        r = self.results
        layers, noise = self._noise_curves()
        maps, scale = self._noise_maps()
        return environment.get_template("report.html.j2").render(
            r=r,
            variants=self.variants,
            looks=self.looks,
            primary=self.primary,
            level=numbers.percent(1 - r.experiment.alpha),
            marks=MARKS,
            warnings=self._warnings(),
            cards=[c for v in r.others if (c := r.comparison_of(self.primary.key, v.label))],
            groups=[(metric, tables.metric_cells(r, metric)) for metric in r.metrics],
            rows=list(enumerate(r.variants)),
            run_columns=[(metric, tables.run_cells(r, metric)) for metric in r.metrics],
            details=[(metric, self._details(metric)) for metric in r.metrics],
            forests=self._forests(),
            curves=self._curves(),
            samples=self._samples(),
            shown_seed=self._shown_seed(),
            small=self._is_small(),
            layers=layers,
            noise=noise,
            maps=maps,
            scale=scale,
            cost=tables.cost_rows(r),
            equal_time=self._equal_time(),
            unexpected=sorted(set(r.config.differing) - {"noise"} - set(r.config.allowed)),
            sections=self.sections,
        )

    def _warnings(self) -> list[tuple[str, list[str]]]:
        """What a reader must know before the numbers: (heading, sentences)."""
        r, found = self.results, []
        if not r.pairing.paired:
            found.append(("The runs are not paired", r.pairing.problems or ["Their certificates do not agree."]))
        failed = [run for run in r.runs if run.status == "failed"]
        if failed:
            sentences = [f"{run.variant}, seed {run.seed}: {run.error or 'no reason was recorded'}" for run in failed]
            found.append((f"{len(failed)} of {len(r.runs)} runs failed; the others stand below", sentences))
        if len(r.experiment.seeds) == 1:
            found.append(
                (
                    "One replicate only",
                    ["With a single training seed there are no intervals and no tests: any difference may be chance."],
                )
            )
        if r.experiment.selection == "best":
            found.append(
                (
                    "Best snapshot of each run, not its last",
                    [
                        f"Scores are those of the snapshot with the best {self.primary.title}, chosen by the same "
                        "score that is reported: they are too good, and not comparable with those of last snapshots."
                    ],
                )
            )
        return found

    def _details(self, metric: MetricInfo) -> list[tuple[Comparison, dict[str, str]]]:
        """The comparisons of a metric with all their numbers, the same decimals down each column."""
        found = [c for c in self.results.comparisons if c.metric == metric.key]
        spreads = [u for c in found for u in (numbers.half_width(c.interval), c.std_difference)]
        places = numbers.decimals_for(spreads, [c.mean_difference for c in found])
        run_places = max(
            places, numbers.decimals_for([], [v for c in found for p in c.pairs for v in (p.variant, p.baseline)])
        )
        return [(c, self._detail(c, places, run_places)) for c in found]

    @staticmethod
    def _detail(c: Comparison, places: int, run_places: int) -> dict[str, str]:
        return {
            "difference": numbers.fixed(c.mean_difference, places, sign=True),
            "std": numbers.fixed(c.std_difference, places),
            "interval": numbers.interval_text(c.interval, places, sign=True),
            "bca": numbers.interval_text(c.interval_bca, places, sign=True),
            "detectable": numbers.fixed(c.smallest_detectable, places),
            "pairs": ", ".join(
                f"seed {p.seed}: {numbers.fixed(p.variant, run_places)} against {numbers.fixed(p.baseline, run_places)}"
                for p in c.pairs
            ),
        }

    def _add(self, name: str, drawing: draw.Drawing | None) -> Markup | None:
        """Keep the files of a drawing; its element for the page."""
        if drawing is None:
            return None
        self.figures |= {f"{name}.svg": drawing.svg, f"{name}.png": drawing.png}
        return Markup(drawing.inline)

    def _metric_name(self, kind: str, metric: MetricInfo) -> str:
        return f"{kind}-{self.results.metrics.index(metric) + 1}-{safe(metric.key)}"

    def _forests(self) -> list[tuple[MetricInfo, Markup]]:
        found = []
        for metric in self.results.metrics:
            pairs = [(self.looks[c.variant], c) for c in self.results.comparisons if c.metric == metric.key]
            name = self._metric_name("difference", metric)
            if svg := self._add(name, draw.differences(metric, pairs, name)):
                found.append((metric, svg))
        return found

    def _curves(self) -> list[tuple[MetricInfo, Markup]]:
        found = []
        runs = [(self.looks[v.label], self.results.done(v.label)) for v in self.variants]
        for metric in self.results.metrics:
            name = self._metric_name("curve", metric)
            if svg := self._add(name, draw.learning_curve(metric, runs, name)):
                found.append((metric, svg))
        return found

    def _shown_seed(self) -> int | None:
        """The first training seed that most variants have finished: all of them, if nothing failed."""
        counts = {
            s: sum(r.seed == s and r.status == "done" for r in self.results.runs) for s in self.results.experiment.seeds
        }
        seed = max(counts, key=lambda s: counts[s])  # of equals the first
        return seed if counts[seed] else None

    def _shown_run(self, label: str) -> Run | None:
        return next((run for run in self.results.done(label) if run.seed == self._shown_seed()), None)

    def _is_small(self) -> bool:
        return int(self.results.data.get("resolution", 0)) < 128

    def _image(self, name: str, tiles: Any, columns: int) -> dict[str, Any]:
        png = grids.grid_png(tiles, columns)
        self.figures[f"{name}.png"] = png
        width, height = grids.png_size(png)
        return {"png": png, "width": width, "height": height, "n": len(tiles)}

    def _samples(self) -> list[tuple[str, dict[str, Any] | None]]:
        """For each variant the grid of its images, None where there are none."""
        found: list[tuple[str, dict[str, Any] | None]] = []
        for variant in self.variants:
            run = self._shown_run(variant.label)
            images = load_array(self.folder, run, "samples", 4) if run else None
            if images is None:
                found.append((variant.label, None))
                continue
            columns = grids.columns_for(len(images))
            tiles = grids.rgba(images[: columns * grids.MOST_ROWS])
            found.append((variant.label, self._image(f"samples-{variant.slug}", tiles, columns)))
        return found

    def _noise_curves(self) -> tuple[list[draw.LayerLook], list[tuple[str, Markup | None, str]]]:
        """The looks of all layers; for each variant its figure, None where it injects no noise into features.

        Ratios are means over finished runs; where one of them is no number, so is the mean.
        """
        means: dict[str, tuple[list[float], dict[str, list[float]]]] = {}
        for variant in self.variants:
            logs = [run.noise for run in self.results.done(variant.label) if run.noise.strength]
            logs = [log for log in logs if log.kimg == logs[0].kimg and log.strength.keys() == logs[0].strength.keys()]
            if logs:
                means[variant.label] = (
                    logs[0].kimg,
                    {k: _means([log.strength[k] for log in logs]) for k in logs[0].strength},
                )
        layers = {draw.layer_of(key) for _, strength in means.values() for key in strength}
        looks = draw.layer_looks(sorted(layers, key=natural))
        ratios = [v for _, s in means.values() for values in s.values() for v in values if math.isfinite(v)]
        top, log = max(ratios, default=0.0), draw.is_log(np.array(ratios))
        found: list[tuple[str, Markup | None, str]] = []
        for variant in self.variants:
            name, drawing, note = f"noise-{variant.slug}", None, ""
            if variant.label in means:
                kimg, strength = means[variant.label]
                drawing = draw.noise_curves(kimg, strength, looks, top, log, name)
                marked = [injector for injector, mark in draw.injector_marks(strength).items() if mark]
                note = f"with markers: {', '.join(marked)}" if marked else ""
            found.append((variant.label, self._add(name, drawing), note))
        return looks, found

    def _noise_maps(self) -> tuple[list[tuple[str, dict[str, Any] | None]], Markup | None]:
        """For each variant its images with noise off and its maps of standard deviation; the one scale of all maps."""
        arrays = {}
        for variant in self.variants:
            run = self._shown_run(variant.label)
            maps = load_array(self.folder, run, "noise_std", 3) if run else None
            if run and maps is not None:
                arrays[variant.label] = (run, maps, load_array(self.folder, run, "noise_images", 4))
        top = grids.common_top([maps for _, maps, _ in arrays.values()])
        found: list[tuple[str, dict[str, Any] | None]] = []
        for variant in self.variants:
            if variant.label not in arrays:
                found.append((variant.label, None))
                continue
            run, maps, images = arrays[variant.label]
            k, slug = min(len(maps), 4), variant.slug
            shown: dict[str, Any] = {"maps": self._image(f"noise-std-{slug}", grids.std_to_rgba(maps[:k], top), k)}
            shown["off"] = images is not None and self._image(f"noise-off-{slug}", grids.rgba(images[:k]), k)
            shown["mean"] = float(maps.mean())
            shown["all"] = [r.noise_std for r in self.results.done(variant.label) if r.noise_std is not None]
            found.append((variant.label, shown))
        return found, self._add("noise-std-scale", draw.color_scale(top, "noise-std-scale") if arrays else None)

    def _equal_time(self) -> dict[str, Any] | None:
        """Images shown by each variant, and its comparisons, at the same time spent."""
        equal = self.results.timing.equal_time
        if equal is None:
            return None
        metrics = [m for m in self.results.metrics if m.extractor is not None]  # inversion has no snapshots on the way
        view = self.results.model_copy(update={"comparisons": equal.comparisons})
        nimg = {v.label: [run.nimg for run in equal.runs if run.variant == v.label] for v in self.results.variants}
        return {
            "seconds": equal.seconds,
            "kimg": {label: sum(n) / len(n) / 1000 if n else None for label, n in nimg.items()},
            "groups": [(m, tables.metric_cells(view, m)) for m in metrics],
        }


def _means(series: Sequence[Sequence[float | None]]) -> list[float]:
    """Mean over runs, entry by entry; not a number where one of them has none."""
    return [math.nan if None in values else sum(values) / len(values) for values in zip(*series, strict=False)]


def plain(value: Any) -> str:
    """A value of JSON as a reader expects it."""
    if value is None:
        return numbers.NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(v)}" for key, v in value.items()) or numbers.NOTHING
    if isinstance(value, list):
        return ", ".join(plain(v) for v in value) or numbers.NOTHING
    return str(value)


def safe(name: str) -> str:
    """`name` as a part of a file name and of an identifier in the page."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "x"


def natural(key: str) -> list[tuple[int, str]]:
    """Sorts b8 before b16."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", key)]
