"""The drawn figures: learning curves, differences to the baseline, noise in each layer, the scale of the noise maps.

Each is drawn twice. As a file it stands alone: its text is paths, so it looks the same in every program, and it has a
legend. In the page its text is text and its colours are CSS variables, so it follows the page's font and its dark mode;
the legend is the page's.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from noisegan.compare.report.grids import COLORMAP
from noisegan.compare.report.results import Comparison, MetricInfo, Run

INK, MUTED, RULE, PAPER = "#20242a", "#646c77", "#dfe3e8", "#ffffff"
# The first is the baseline's. The others are those of Okabe and Ito (2008), "Color Universal Design", their yellow
# left out (too light on paper), in an order that keeps neighbours apart for every kind of colour vision.
SERIES = ("#4a4f57", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2), (10, 3), (4, 1.5, 1.5, 1.5, 1.5, 1.5))
"""On and off, in line widths; () is a solid line."""
THEME = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"} | {
    color: f"--s{i}" for i, color in enumerate(SERIES)
}
LONGEST_LABEL = 36
WIDTH = 3.4
"""Inches: a column of a journal, and on a phone's page the text keeps its size."""

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "noisegan",
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "figure.dpi": 100,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "savefig.transparent": True,
}


@dataclass(frozen=True)
class Look:
    """How one line is drawn. `variable` is the CSS variable that stands for its colour in the page."""

    label: str
    color: str
    variable: str
    dashes: tuple[float, ...]

    @property
    def line(self) -> Literal["-"] | tuple[float, tuple[float, ...]]:
        return (0, self.dashes) if self.dashes else "-"


@dataclass(frozen=True)
class Drawing:
    """A figure as files (`svg`, `png`: empty where it is for the page alone) and on the page (`inline`: an element)."""

    svg: bytes
    png: bytes
    inline: str


def looks(labels: Sequence[str]) -> list[Look]:
    """A colour and a dash pattern for each variant, the baseline first. Beyond seven colours repeat, dashes do not."""
    found = []
    for i, label in enumerate(labels):
        turn, color = divmod(i - 1, len(SERIES) - 1) if i else (0, -1)
        found.append(Look(label, SERIES[color + 1], f"--s{color + 1}", DASHES[(i + turn) % len(DASHES)]))
    return found


@dataclass(frozen=True)
class LayerLook(Look):
    """`dark` is the colour on a dark page."""

    dark: str


def layer_looks(layers: Sequence[str]) -> list[LayerLook]:
    """Layers from coarse to fine along a colour scale, with dashes so that neighbours differ in more than colour."""
    scale, n = matplotlib.colormaps["viridis"], max(len(layers) - 1, 1)
    return [
        LayerLook(layer, to_hex(scale(0.78 * i / n)), f"--l{i}", DASHES[i % 4], to_hex(scale(0.3 + 0.7 * i / n)))
        for i, layer in enumerate(layers)
    ]


def layer_of(key: str) -> str:
    """`b8.conv0` of `b8.conv0/additive`."""
    return key.partition("/")[0]


def injector_marks(keys: Iterable[str]) -> dict[str, str]:
    """The marker that tells the injectors of one variant apart: none for the first."""
    names = dict.fromkeys(key.partition("/")[2] for key in keys)
    return dict(zip(names, ("", "o", "s", "^", "v", "D", "P", "X"), strict=False))


def shorten(label: str, length: int = LONGEST_LABEL) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def learning_curve(metric: MetricInfo, variants: Sequence[tuple[Look, Sequence[Run]]], name: str) -> Drawing | None:
    """Mean score over replicates against images shown; the band reaches from the smallest to the largest replicate.

    Points are the snapshots that all finished runs of a variant have. None where there is no curve at all.
    """
    curves = [(look, *_band(metric.key, runs)) for look, runs in variants]
    curves = [curve for curve in curves if len(curve[1])]
    if not curves:
        return None
    values = np.concatenate([band.ravel() for _, _, band in curves])

    def draw(axes: Axes) -> None:
        for look, kimg, band in curves:
            low, mean, high = band
            axes.fill_between(kimg, low, high, color=look.color, alpha=0.16, linewidth=0)
            axes.plot(kimg, mean, color=look.color, linestyle=look.line, marker="o")
        if is_log(values):
            _logarithmic(axes)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("thousands of images shown (kimg)")
        axes.set_ylabel(metric.title)

    return _render(name, (WIDTH, 2.5), draw, [look for look, *_ in curves])


def is_log(values: NDArray[np.float64]) -> bool:
    """Whether values span so much that only a logarithmic axis shows their lower end."""
    return bool(len(values) and values.min() > 0 and values.max() > 10 * values.min())


def _band(key: str, runs: Sequence[Run]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """kimg [t]; smallest, mean, largest over runs [3, t]."""
    curves = [{p.nimg: value for p in run.curve if (value := p.scores.get(key)) is not None} for run in runs]
    curves = [curve for curve in curves if curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    if not steps:
        return np.empty(0), np.empty((3, 0))
    values = np.array([[curve[step] for step in steps] for curve in curves], dtype=np.float64)  # [runs, t]
    return np.array(steps) / 1000, np.stack([values.min(0), values.mean(0), values.max(0)])


def differences(metric: MetricInfo, comparisons: Sequence[tuple[Look, Comparison]], name: str) -> Drawing | None:
    """Difference to the baseline of each variant: mean with interval, and each pair of runs as a faint point."""
    rows = [(look, c) for look, c in comparisons if c.mean_difference is not None]
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        for y, (look, c) in enumerate(rows):
            axes.plot([p.difference for p in c.pairs], [y] * c.n, "o", color=look.color, alpha=0.35, markersize=4.5)
            if c.interval is not None:
                axes.plot(c.interval, [y, y], color=look.color, linewidth=2.2, solid_capstyle="butt")
            axes.plot(np.array([c.mean_difference]), [y], "D", color=look.color, markersize=5.5)
            box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}  # lines pass behind the label
            place = axes.get_yaxis_transform()
            axes.text(0.0, y - 0.22, shorten(look.label), transform=place, va="bottom", bbox=box, zorder=1.5)
        axes.set_ylim(len(rows) - 0.55, -0.85)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.08)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -0.15 * high), max(high, -0.15 * low))  # room on both sides of zero
        side = {"lower": "\N{LEFTWARDS ARROW} better", "higher": "better \N{RIGHTWARDS ARROW}"}[metric.better]
        axes.set_xlabel(f"difference in {metric.title}   {side}")

    return _render(name, (WIDTH, 0.65 + 0.45 * len(rows)), draw, [])


def histogram(edges: Sequence[float], series: Sequence[tuple[Look, Sequence[int]]], name: str) -> Drawing:
    """Outlines of histograms over common bins, as shares of each series; for the page alone."""

    def draw(axes: Axes) -> None:
        for look, counts in series:
            shares = np.asarray(counts, np.float64) / max(sum(counts), 1)
            axes.stairs(shares, np.asarray(edges), color=look.color, linestyle=look.line, linewidth=1.6)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("distance after inversion")
        axes.set_ylabel("share of images")

    return _render(name, (WIDTH, 2.0), draw, [look for look, _ in series], files=False)


@dataclass(frozen=True)
class Band:
    """A line with what lies around it, each [t]."""

    look: Look
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def bands(series: Sequence[Band], xlabel: str, ylabel: str, name: str) -> Drawing:
    """Lines with bands over a common axis; for the page alone."""
    values = np.concatenate([np.asarray([band.low, band.high], np.float64).ravel() for band in series])

    def draw(axes: Axes) -> None:
        for band in series:
            axes.fill_between(band.x, band.low, band.high, color=band.look.color, alpha=0.16, linewidth=0)
            axes.plot(band.x, band.y, color=band.look.color, linestyle=band.look.line)
        if is_log(values):
            _logarithmic(axes)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)

    return _render(name, (WIDTH, 2.3), draw, [band.look for band in series], files=False)


def roc(series: Sequence[tuple[Look, Sequence[tuple[Sequence[float], Sequence[float]]]]], name: str) -> Drawing:
    """ROC curves of several networks each, as faint lines, and their mean at each x; for the page alone.

    Args:
        series: look, and for each network x and y: shares of real and of generated images that are called generated.
    """
    x = np.linspace(0, 1, 101)

    def draw(axes: Axes) -> None:
        axes.plot((0, 1), (0, 1), color=MUTED, linewidth=0.7)
        for look, curves in series:
            for curve in curves:
                axes.plot(*curve, color=look.color, linewidth=0.7, alpha=0.35)
            mean = np.mean([np.interp(x, *curve) for curve in curves], axis=0)
            axes.plot([0, *x], [0, *mean], color=look.color, linestyle=look.line, clip_on=False)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("share of held-out images called generated")
        axes.set_ylabel("share of own images found")

    return _render(name, (WIDTH, 2.8), draw, [look for look, *_ in series], files=False)


def noise_curves(
    kimg: Sequence[float], strength: dict[str, list[float]], layers: Sequence[Look], top: float, log: bool, name: str
) -> Drawing:
    """Noise-to-signal ratio of each layer of one variant over training; `top` and `log` are those of all variants.

    Args:
        kimg: [t].
        strength: injector key, such as `b8.conv0/additive`, -> [t], not a number where there is no ratio.
    """
    of, marks = {look.label: look for look in layers}, injector_marks(strength)
    shown = [look for look in layers if any(layer_of(key) == look.label for key in strength)]

    def draw(axes: Axes) -> None:
        for key, ratios in strength.items():
            look, mark = of[layer_of(key)], marks.get(key.partition("/")[2], "*")
            (line,) = axes.plot(kimg, ratios, color=look.color, linestyle=look.line, linewidth=1.3)
            line.set(marker=mark or "None", markevery=max(1, len(kimg) // 8))
        if log:
            _logarithmic(axes)
            axes.set_ylim(top=1.3 * top)
        else:
            axes.set_ylim(0, 1.08 * top or 1)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("thousands of images shown (kimg)")
        axes.set_ylabel("noise / signal")

    return _render(name, (WIDTH, 2.4), draw, shown)


def color_scale(top: float, name: str) -> Drawing:
    """The scale of the noise maps, in units of [-1, 1]."""

    def draw(axes: Axes) -> None:
        figure = axes.figure
        assert isinstance(figure, Figure)
        bar = figure.colorbar(ScalarMappable(Normalize(0, top), COLORMAP), cax=axes, orientation="horizontal")
        bar.outline.set_visible(False)
        bar.ax.xaxis.set_major_locator(MaxNLocator(5))
        bar.set_label("standard deviation over 100 noise draws")

    return _render(name, (WIDTH, 0.6), draw, [])


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _render(
    name: str, size: tuple[float, float], draw: Callable[[Axes], None], legend: Sequence[Look], *, files: bool = True
) -> Drawing:
    """Draw once as files, once for the page."""
    svg, png = b"", io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # labels in other scripts
        if files:
            figure = _figure(size, draw, legend)
            svg = _save(figure, "path")
            figure.savefig(
                png, format="png", dpi=200, transparent=False, facecolor="white", metadata={"Software": None}
            )
        inline = _save(_figure(size, draw, []), "none").decode()
    variables = THEME | {look.color: look.variable for look in legend}
    return Drawing(svg, png.getvalue(), _for_page(inline, name, variables))


def _figure(size: tuple[float, float], draw: Callable[[Axes], None], legend: Sequence[Look]) -> Figure:
    columns = 2 if all(len(look.label) < 20 for look in legend) else 1
    extra = 0.17 * -(-len(legend) // columns) + 0.15 if legend else 0
    figure = Figure(figsize=(size[0], size[1] + extra), layout="constrained")
    draw(figure.subplots())
    if legend:
        handles = [Line2D([], [], color=look.color, linestyle=look.line) for look in legend]
        labels = [shorten(look.label) for look in legend]
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)
    figure.set_layout_engine(None)  # laid out now, once for all formats; "none" would draw it once more for each
    return figure


def _save(figure: Figure, fonttype: str) -> bytes:
    stream = io.BytesIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": fonttype}):
        figure.savefig(stream, format="svg", metadata=nothing)
    return stream.getvalue()


def _for_page(svg: str, name: str, variables: dict[str, str]) -> str:
    """The svg element alone: without addresses of namespaces, its names its own, its colours variables of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'(\bid="|href="#|url\(#)', lambda found: f"{found[1]}{name}-", svg)
    colors = rf"((?:fill|stroke): )({'|'.join(variables)})\b"
    return re.sub(colors, lambda found: f"{found[1]}var({variables[found[2]]})", svg)
