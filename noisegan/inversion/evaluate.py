"""How well a network can be inverted: spaces x noise, for images that it never saw and for its own.

    for line in evaluate_inversion("runs/00000-...", outdir, data="fashion-mnist", images=100): print(line)

Leaves, in the output folder:

    settings.json           what is evaluated. Images, spaces and kinds of noise may be added; anything else is refused
    targets/real|own/       the images, as PNG
    inversions/<kind>-<space>-<noise>/<image>/    as `noisegan project` leaves them; what is there is not made again
    evaluation.json         everything found
    images.csv              a line per image and cell
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noisegan import facade
from noisegan.core.data import open_dataset
from noisegan.core.generator import Generator
from noisegan.core.images import to_float
from noisegan.core.reporting import counting
from noisegan.errors import Interrupted, NoiseganError
from noisegan.files import atomic_path, unwritable, write_json
from noisegan.inversion.evaluation_folder import RESULT, claim, evaluation_settings, write_targets
from noisegan.inversion.folders import project
from noisegan.inversion.heldout import HeldOut, choose_held_out
from noisegan.inversion.losses import Loss, make_loss, parse_loss
from noisegan.inversion.noise import NOISES, NoiseInfo, describe_noise
from noisegan.inversion.output import ARRAYS, Projected, read_inversion
from noisegan.inversion.precision import check_precision, compute_in
from noisegan.inversion.projector import ProjectorOptions
from noisegan.inversion.quality import compare_images, fresh_distances, measure_noise
from noisegan.inversion.spaces import SPACES, check_class
from noisegan.inversion.summary import LEVEL, contrasts, summarise, table, worst_images
from noisegan.inversion.targets import read_targets
from noisegan.manager import Plugins
from noisegan.metrics.evaluate import generate

TABLE = "images.csv"
REAL, OWN = "real", "own"
Array = NDArray[np.float64]
CURVE = 40
"""Points of the curves over steps."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One of the factorial's: which images, which space, which noise."""

    kind: str
    space: str
    noise: str

    @property
    def folder(self) -> str:
        return f"{self.kind}-{self.space}-{self.noise}"

    def as_dict(self) -> dict[str, str]:
        return {"images": self.kind, "space": self.space, "noise": self.noise}


def evaluate_inversion(
    network: str | Path,
    outdir: Path,
    *,
    data: str | None = None,
    resize: str | None = None,
    crop: str | None = None,
    images: int = 100,
    own_images: int | None = None,
    spaces: Sequence[str] = ("w", "w+"),
    noises: Sequence[str] = NOISES,
    steps: int = 1000,
    loss: str = ProjectorOptions.loss,
    hard_labels: Sequence[int] = (),
    draw_seed: int = 0,
    allow_trained: bool = False,
    held_out: HeldOut | None = None,
    batch: int = 16,
    device: str = "auto",
    precision: str = "fp32",
    plugins: Plugins | None = None,
    **options: Any,
) -> Iterator[str]:
    """Invert held-out and own images in every space with every kind of noise, and measure what came of it.

    Args:
        network: run folder or snapshot.
        outdir: an existing folder.
        data, resize, crop, draw_seed, allow_trained: which real images; see `noisegan.inversion.heldout`.
        images: real images.
        own_images: images of the network itself, without truncation and with fresh noise; default: as many.
        spaces, noises: the factors.
        hard_labels: classes to report by themselves.
        held_out: real images that were chosen already, instead of `data`.
        **options: further fields of `ProjectorOptions`.

    Yields:
        lines for the user.

    Raises:
        NoiseganError: for mistakes in the options, no held-out images, or a folder of another evaluation.
        Interrupted: when the user stops; finished inversions are kept, and the same call goes on.
    """
    plugins = plugins or Plugins()
    own_images = images if own_images is None else own_images
    cells = _cells(spaces, noises, own=own_images > 0)
    chosen = ProjectorOptions(steps=steps, loss=loss, **options)
    snapshot = facade.load(network, plugins=plugins, device=device)
    check_precision(precision, snapshot.device)
    check_class(snapshot.G_ema, spaces, chosen.class_index)
    distances = make_loss(loss, snapshot.device)
    if held_out is None:
        held_out = choose_held_out(
            snapshot.facts,
            count=images,
            data=data,
            resize=resize,
            crop=crop,
            labels=bool(hard_labels),
            seed=draw_seed,
            allow_trained=allow_trained,
        )
    check_labels(hard_labels, held_out)
    yield told(held_out, images)
    own = _own_images(snapshot, own_images)
    settings = evaluation_settings(
        snapshot.path, chosen, held_out, spaces=spaces, noises=noises, own_images=own_images, hard_labels=hard_labels,
        precision=precision,
    )  # fmt: skip
    claim(outdir, settings)
    write_targets(outdir / "targets" / REAL, held_out.names, held_out.images)
    write_targets(outdir / "targets" / OWN, [f"sample-{i:06d}" for i in range(len(own))], own)

    for cell in cells:
        try:
            folder = outdir / "inversions" / cell.folder
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        fields = chosen.as_dict() | {"space": cell.space, "noise": cell.noise}
        work = project(
            snapshot.path, outdir / "targets" / cell.kind, folder, batch=batch, device=device, precision=precision,
            plugins=plugins, **fields,
        )  # fmt: skip
        for _ in work:
            pass
        yield f"inverted: {cell.kind} images, space {cell.space}, noise {cell.noise}"

    G = snapshot.G_ema
    compute_in(G, precision, snapshot.device)
    measure = _Measure(G, distances, describe_noise(G))
    found = []
    try:
        for cell in cells:
            found.append(_evaluate_cell(cell, outdir, measure, held_out, hard_labels))
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped while measuring; all inversions are finished in {outdir}, and the same command goes on"
        ) from None
    result = settings | {
        "real_images": held_out.about | {"indices": held_out.indices},
        "loss_weights": measure.loss.describe(),
        "interval": f"{100 * LEVEL:g} %, over images, for this network: another training may differ by more",
        "cells": found,
        "contrasts": contrasts(found),
    }
    write_json(outdir / RESULT, result)
    _write_images(outdir / TABLE, found)
    yield from table(found)
    yield f"{outdir / RESULT}"


class _Measure:
    """What is measured of one inversion.

    Args:
        G: at the precision of the inversions.
        loss: in full precision.
        infos: of the network's noise.
    """

    def __init__(self, G: Generator, loss: Loss, infos: list[NoiseInfo]) -> None:
        self.G, self.loss, self._infos = G, loss, infos

    @torch.no_grad()
    def __call__(self, projected: Projected, target: Tensor) -> dict[str, float | None]:
        """Measures by name; target [C, R, R] in [-1, 1]."""
        settings = projected.settings
        distances: dict[str, float] = settings["distances"]
        image = projected.render(self.G)
        row: dict[str, float | None] = {"distance": self._total(distances)}
        row |= distances
        plain = compare_images(image[None].cpu(), target[None])
        row |= {name: _finite(float(value[0])) for name, value in plain.items()}
        row["seconds"] = settings["seconds"]
        if settings["noise"] == "off":
            return row
        target_there = target.to(self.G.mapping.w_avg)
        fresh = self._total(fresh_distances(self.G, projected, self.loss, target_there))
        row |= {"fresh_distance": fresh, "lost_with_fresh_noise": fresh - self._total(distances)}
        keys = settings["noise_optimised"] if settings["noise"] == "optimised" else None
        noise = measure_noise(self._infos, projected.noise, target[None], among=keys)
        return row | {name: float(value[0]) for name, value in noise.items()}

    def _total(self, distances: Mapping[str, float]) -> float:
        return float(self.loss.total({name: torch.tensor([v]).double() for name, v in distances.items()}))


def _evaluate_cell(
    cell: Cell, outdir: Path, measure: _Measure, held_out: HeldOut, hard_labels: Sequence[int]
) -> dict[str, Any]:
    """Rows, summaries and curve of one cell."""
    G = measure.G
    targets = read_targets(outdir / "targets" / cell.kind, resolution=G.resolution, channels=G.img_channels)
    rows: list[dict[str, Any]] = []
    curves = []
    with counting(f"measuring {cell.folder}") as progress:
        for i, target in enumerate(targets):
            one = read_inversion(outdir / "inversions" / cell.folder / target.name)
            row: dict[str, Any] = {"image": target.name}
            if cell.kind == REAL:
                if held_out.classes is not None:
                    row["class"] = held_out.classes[i]
                if held_out.trained_on is not None:
                    row["trained_on"] = held_out.trained_on[i]
            rows.append(row | measure(one, to_float(target.image)))
            curves.append(_curve(one))
            progress(i + 1, len(targets))
    worst = worst_images({row["image"]: row["distance"] for row in rows})
    parts = {"all": rows, "worst_decile": [row for row in rows if row["image"] in worst]}
    if cell.kind == REAL and hard_labels:
        parts["hard_labels"] = [row for row in rows if row["class"] in hard_labels]
        parts["other_labels"] = [row for row in rows if row["class"] not in hard_labels]
    return cell.as_dict() | {
        "n": len(rows),
        "summary": {part: summarise(own) for part, own in parts.items()},
        "worst_images": sorted(worst),
        "curve": _mean_curve(curves),
        "images_measured": rows,
    }


def _cells(spaces: Sequence[str], noises: Sequence[str], *, own: bool) -> list[Cell]:
    for what, given, allowed in (("--spaces", spaces, SPACES), ("--noise", noises, NOISES)):
        wrong = [name for name in given if name not in allowed]
        if wrong or not given or len(set(given)) < len(given):
            raise NoiseganError(
                f"{what} {','.join(given) or 'is empty'}: name some of {', '.join(allowed)}, each once, between commas"
            )
    kinds = (REAL, OWN) if own else (REAL,)
    return [Cell(kind=k, space=s, noise=n) for k in kinds for s in spaces for n in noises]


def check_labels(hard_labels: Sequence[int], held_out: HeldOut) -> None:
    """Raises:
    NoiseganError: when hard labels are none of the images drawn, or all of them.
    """
    if not hard_labels:
        return
    present = sorted(set(held_out.classes or ()))
    missing = [label for label in hard_labels if label not in present]
    if missing or set(present) <= set(hard_labels):
        raise NoiseganError(
            f"--hard-labels {','.join(map(str, hard_labels))}: the images drawn have the classes "
            f"{', '.join(map(str, present))}; name some of them, not all"
        )


def told(held_out: HeldOut, wanted: int) -> str:
    """A line for the user: which images, and what is known of them."""
    about, n = held_out.about, len(held_out.indices)
    parts = [f"{n} real images of {about['name']}"]
    if n < wanted:
        parts.append(f"{wanted} were asked for and there are no more")
    if about["left_out_as_trained_on"]:
        parts.append(f"{about['left_out_as_trained_on']} were left out as the network was trained on them")
    if held_out.trained_on is None:
        parts.append(f"whether the network was trained on them is {about['known']}")
    elif any(held_out.trained_on):
        parts.append(
            f"the network was trained on {sum(held_out.trained_on)} of them, so this is no held-out evaluation"
        )
    return "; ".join(parts)


def _own_images(snapshot: facade.Snapshot, count: int) -> Tensor:
    """Samples 0 .. count - 1 of evaluation seed 0, [count, C, R, R] uint8, with labels as in the training data."""
    G = snapshot.G_ema
    if count == 0:
        return torch.zeros(0, G.img_channels, G.resolution, G.resolution, dtype=torch.uint8)
    config = snapshot.facts["config"]
    labels: Any = _NoLabels()
    if G.c_dim:
        labels = open_dataset(
            config["data"], resolution=G.resolution, resize=config["resize"], crop=config["crop"], cond=True
        )
    return torch.cat(list(generate(G, labels, 0, count)))


class _NoLabels:
    """What `generate` asks of the data of an unconditional network."""

    def __len__(self) -> int:
        return 1

    def labels(self, indices: Any) -> Tensor:
        return torch.zeros(len(indices), 0)


def _curve(one: Projected) -> tuple[Array, Array]:
    """The weighted distance at each step, first of the perturbed latent, then of the tuned generator; seconds; [steps].

    Seconds are shared out evenly over the steps of a stage; over all, for inversions that do not tell their tuning's.
    """
    terms = parse_loss(one.settings["loss"])

    def total(values: Mapping[str, Any], prefix: str) -> Array:
        found: Array = np.sum([weight * np.float64(values[f"{prefix}{name}"]) for name, weight in terms], axis=0)
        return found

    with np.load(one.folder / ARRAYS, allow_pickle=False) as arrays:
        distance = total(arrays, "loss/")
        if one.tuned is None:
            return distance, np.linspace(0, one.settings["seconds"], len(distance) + 1)[1:]
        tuning = total(arrays, "loss/tuning/")
    tuned = np.append(tuning[1:], total(one.settings["distances"], ""))  # each is from before its step
    share = len(tuned) / (len(distance) + len(tuned))
    before = one.settings["seconds"] - one.settings.get("tuning_seconds", share * one.settings["seconds"])
    stages = np.linspace(0, before, len(distance) + 1), np.linspace(before, one.settings["seconds"], len(tuned) + 1)
    return np.concatenate([distance, tuned]), np.concatenate([stage[1:] for stage in stages])


def _mean_curve(curves: Sequence[tuple[Array, Array]]) -> dict[str, Any]:
    """Quality against steps and seconds, mean over images; at most `CURVE` points."""
    mean, seconds = np.mean(curves, axis=0)  # [2, steps]
    steps = np.unique(np.linspace(0, len(mean) - 1, min(CURVE, len(mean))).round().astype(int))
    return {"step": (steps + 1).tolist(), "seconds": seconds[steps].tolist(), "distance": mean[steps].tolist()}


def _finite(value: float) -> float | None:
    """JSON has no infinity: the PSNR of equal images is None."""
    return value if math.isfinite(value) else None


def _write_images(path: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """One line per image and cell."""
    rows = [
        {name: cell[name] for name in ("images", "space", "noise")} | row
        for cell in cells
        for row in cell["images_measured"]
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_path(path) as temporary:
        temporary.write_text(stream.getvalue(), encoding="utf-8")
