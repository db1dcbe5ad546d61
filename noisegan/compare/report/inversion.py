"""The report's section on inversion, from what `noisegan invert-eval --experiment` left in the comparison's folder."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from noisegan.compare.report import figures as draw
from noisegan.compare.report import grids, numbers

DIFFERENCE_GAIN = 2
"""Differences of pixels are shown so many times enlarged."""
IMAGE = {
    "mse": "MSE",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "fresh_distance": "distance, fresh noise",
    "seconds": "seconds per image",
}
NOISE = {
    "lost_with_fresh_noise": "lost with fresh noise",
    "autocorrelation": "autocorrelation",
    "all_lags": "autocorrelation, all lags",
    "mutual_information": "mutual information (bits)",
}
"""Measures of the tables, with their headings."""

Array = NDArray[np.uint8]
Figure = tuple[str, str, Markup]
"""What it shows, in few and in more words, and its element."""


def inversion_section(folder: Path, found: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[str, str]:
    """Title and HTML.

    Args:
        folder: where inversion.json and the evaluations of the runs lie.
        found: the content of inversion.json.
        results: the content of results.json; where it has other networks than were inverted, the section says so.

    Raises:
        NoiseganError: when an evaluation is gone.
    """
    environment = Environment(
        loader=PackageLoader("noisegan.compare.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(significant=numbers.significant, p=numbers.p_text, interval=_interval)
    primary = next(cell for cell in found["cells"] if cell["images"] == "real")
    # As everywhere in the report, whose colours begin with the baseline.
    ordered = sorted(found["variants"], key=lambda label: label != found["baseline"])
    looks = {look.label: look for look in draw.looks(ordered)}
    html = environment.get_template("inversion.html.j2").render(
        found=found,
        primary=primary,
        level=numbers.percent(1 - found["alpha"]),
        looks=looks.values(),
        image=IMAGE,
        noise=NOISE,
        curves=_curves(found, looks),
        rocs=_rocs(found, looks),
        histograms=_histograms(found),
        stale=_networks(found["runs"]) != _networks(run for run in results["runs"] if run["status"] == "done"),
        pictures=_pictures(folder, found, primary),
        gain=DIFFERENCE_GAIN,
    )
    return "Inversion", html


def _networks(runs: Iterable[Mapping[str, Any]]) -> set[tuple[str, int, str]]:
    return {(run["variant"], run["seed"], run["snapshot"]) for run in runs}


def _interval(interval: Sequence[float] | None) -> str:
    """Both ends to three digits, nothing for none."""
    if interval is None:
        return numbers.NOTHING
    return f"[{numbers.significant(interval[0])}, {numbers.significant(interval[1])}]"


def _curves(found: Mapping[str, Any], looks: Mapping[str, draw.Look]) -> list[list[Figure]]:
    """The distance on the way, for each cell: against steps and against seconds."""
    drawings: list[list[Figure]] = []
    for cell in found.get("curves", []):
        drawings.append([])
        for axis, label in (("step", "steps"), ("seconds", "seconds per image")):
            series = [
                draw.Band(looks[variant], curve[axis], curve["distance"], curve["low"], curve["high"])
                for variant, curve in cell["variants"].items()
            ]
            name = f"inversion-{axis}-{cell['space'].replace('+', 'plus')}-{cell['noise']}"
            what = f"{cell['space']}, noise {cell['noise']}: against {label}"
            drawing = draw.bands(series, label, "distance", name)
            drawings[-1].append((what, f"Distance of held-out images, {what}", Markup(drawing.inline)))
    return drawings


def _rocs(found: Mapping[str, Any], looks: Mapping[str, draw.Look]) -> list[Figure]:
    """The ROC curves of attribution: a figure for each cell."""
    drawings = []
    for part in found["attribution"]:
        curves: dict[str, list[tuple[list[float], list[float]]]] = {}
        for run in part.get("roc", []):
            curves.setdefault(run["variant"], []).append((run["false_positives"], run["true_positives"]))
        if curves:
            series = [(looks[label], own) for label, own in curves.items()]
            name = f"inversion-roc-{part['space'].replace('+', 'plus')}-{part['noise']}"
            what = f"{part['space']}, noise {part['noise']}"
            drawings.append((what, f"ROC curves of attribution, {what}", Markup(draw.roc(series, name).inline)))
    return drawings


def _histograms(found: Mapping[str, Any]) -> list[list[Figure]]:
    """The distances of real and own images, for each cell with both: a figure per variant."""
    drawings: list[list[Figure]] = []
    for cell in found["histograms"]:
        drawings.append([])
        looks = [
            draw.Look("real, held out", draw.SERIES[1], "--s1", ()),
            draw.Look("of the network", draw.SERIES[2], "--s2", draw.DASHES[1]),
        ]
        for i, label in enumerate(found["variants"]):
            if label not in cell["counts"]:
                continue
            counts = cell["counts"][label]
            name = f"inversion-{cell['space'].replace('+', 'plus')}-{cell['noise']}-{i}"
            what = f"{label}, {cell['space']}, noise {cell['noise']}"
            series = [(looks[0], counts["real"]), (looks[1], counts["own"])]
            drawing = draw.histogram(cell["edges"], series, name)
            drawings[-1].append((what, f"Histograms of distances, {what}", Markup(drawing.inline)))
    return drawings


def _pictures(folder: Path, found: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rows of target, reconstruction and difference of each variant's network of the first seed that all have."""
    variants = found["variants"]
    runs = {(run["variant"], run["seed"]): run["folder"] for run in found["runs"]}
    seed = next((s for s in found["seeds"] if all((label, s) in runs for label in variants)), None)
    if seed is None:
        return None
    inner = f"{cell['images']}-{cell['space']}-{cell['noise']}"
    rows = []
    for name, kind in found["shown"]:
        places = [folder / runs[label, seed] / "inversions" / inner / name for label in variants]
        if not all((place / "proj.png").is_file() for place in places):
            continue
        target = _read(places[0] / "target.png")
        made = [_read(place / "proj.png") for place in places]
        apart = [
            np.clip(DIFFERENCE_GAIN * np.abs(image.astype(int) - target), 0, 255).astype(np.uint8) for image in made
        ]
        rows.append(
            {
                "name": name,
                "kind": kind,
                "target": _data_url(target),
                "made": [_data_url(image) for image in made],
                "apart": [_data_url(image) for image in apart],
            }
        )
    if not rows:
        return None
    side = int(_read(places[0] / "target.png").shape[0] * grids.zoom(target.shape[0]))
    return {"seed": seed, "side": side, "rows": rows, "space": cell["space"], "noise": cell["noise"]}


def _read(path: Path) -> Array:
    """[R, R, 3] uint8, RGBA over white."""
    with Image.open(path) as picture:
        rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))


def _data_url(image: Array) -> str:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
