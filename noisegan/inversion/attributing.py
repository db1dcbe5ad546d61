"""Attributing images to a network: known images inverted for calibration, then the images in question."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from noisegan import facade
from noisegan.errors import NoiseganError
from noisegan.files import atomic_path, unwritable, write_json
from noisegan.inversion.attribution import real_p, separate, threshold
from noisegan.inversion.evaluate import OWN, REAL, evaluate_inversion, told
from noisegan.inversion.evaluation_folder import RESULT
from noisegan.inversion.folders import project
from noisegan.inversion.heldout import HeldOut, choose_held_out
from noisegan.inversion.losses import parse_loss
from noisegan.inversion.output import read_inversion
from noisegan.inversion.projector import ProjectorOptions
from noisegan.inversion.targets import Target, read_targets
from noisegan.manager import Plugins

RESULT_FILE, PICTURE = "attribution.json", "attribution.png"
GENERATED, NOT_GENERATED = "generated", "not told from real"


def attribute(
    network: str | Path,
    target: str | Path | None,
    outdir: Path,
    *,
    images: int = 100,
    space: str = "w",
    noise: str = "optimised",
    loss: str = "st-lpips-alex",
    false_positives: float = 0.05,
    batch: int = 16,
    device: str = "auto",
    precision: str = "fp32",
    plugins: Plugins | None = None,
    data: str | None = None,
    resize: str | None = None,
    crop: str | None = None,
    draw_seed: int = 0,
    allow_trained: bool = False,
    **options: Any,
) -> Iterator[str]:
    """Decide which images a network has made; the same as `noisegan attribute`.

    Args:
        network: run folder or snapshot.
        target: an image or a folder of images; None only measures how well the network's images are told from others.
        outdir: an existing folder. Gets calibration/ (as `invert-eval` leaves it), inverted/, attribution.json and
            attribution.png.
        images: known real images, and as many of the network's own.
        space, noise, loss: how all of them are inverted.
        false_positives: the chance allowed that a real image like the known ones is called generated.
        data, resize, crop, draw_seed, allow_trained: the known real images; see `noisegan.inversion.heldout`.
        **options: further fields of `ProjectorOptions`.

    Yields:
        lines for the user.

    Raises:
        NoiseganError: as `evaluate_inversion` and `project`, and when there are too few known images.
        Interrupted: when the user stops; finished inversions are kept.
    """
    plugins = plugins or Plugins()
    if images < 2:
        raise NoiseganError(f"--images must be 2 or more, not {images}")
    threshold(np.arange(images), false_positives)  # refused before the work, not after it
    ProjectorOptions(space=space, noise=noise, loss=loss, **_without_none(options))
    snapshot = facade.load(network, plugins=plugins, device="cpu")
    asked: list[Target] = []
    if target is not None:
        G = snapshot.G_ema
        asked = read_targets(target, resolution=G.resolution, channels=G.img_channels)
    held_out = choose_held_out(
        snapshot.facts, count=images, data=data, resize=resize, crop=crop, seed=draw_seed, allow_trained=allow_trained
    )
    _check_enough(held_out, images, false_positives)
    calibration, inverted = outdir / "calibration", outdir / "inverted"
    for folder in (calibration, inverted):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
    shared: dict[str, Any] = {
        "batch": batch,
        "device": device,
        "precision": precision,
        "plugins": plugins,
        "loss": loss,
    }
    known = evaluate_inversion(
        network, calibration, held_out=held_out, images=images, spaces=[space], noises=[noise], **shared, **options
    )  # fmt: skip
    yield next(known)  # which images
    for _ in known:
        pass
    evaluation = json.loads((calibration / RESULT).read_text(encoding="utf-8"))
    distances = {cell["images"]: [row["distance"] for row in cell["images_measured"]] for cell in evaluation["cells"]}
    result = {
        "network": evaluation["network"],
        "network_sha256": evaluation["network_sha256"],
        "projector": evaluation["projector"] | {"space": space, "noise": noise},
        "loss_weights": evaluation["loss_weights"],
        "real_images": {key: value for key, value in evaluation["real_images"].items() if key != "indices"},
    } | separate(distances[OWN], distances[REAL], false_positives=false_positives)
    rows: list[dict[str, Any]] = []
    if target is not None:
        for line in project(
            network, target, inverted, space=space, noise=noise, **shared, **_without_none(options)
        ):  # fmt: skip
            if line.endswith("there already"):
                yield line
        rows = _decide([inverted / each.name for each in asked], loss, distances[REAL], result["threshold"])
    write_json(outdir / RESULT_FILE, result | {"images": rows})
    _draw(outdir / PICTURE, distances[OWN], distances[REAL], result, rows)
    yield from _told(result, rows)
    yield f"{outdir / RESULT_FILE}"


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _check_enough(held_out: HeldOut, wanted: int, false_positives: float) -> None:
    """Raises:
    NoiseganError: when there are too few known real images, however many were wanted.
    """
    drawn = len(held_out.indices)
    with suppress(NoiseganError):
        threshold(np.arange(drawn), false_positives)
        if drawn > 1:
            return
    raise NoiseganError(
        f"{told(held_out, wanted)}: too few to tell a share of {false_positives:g} false positives; name others with "
        "--data, or allow more with --false-positives"
    )


def _decide(inverted: Sequence[Path], loss: str, real: list[float], limit: float) -> list[dict[str, Any]]:
    """A row per image in question."""
    rows = []
    for one in map(read_inversion, inverted):
        distances = one.settings["distances"]
        distance = sum(weight * distances[name] for name, weight in parse_loss(loss))
        rows.append(
            {
                "image": one.name,
                "changes": one.settings["target_changes"],
                "distance": distance,
                "p_real": float(real_p([distance], real)[0]),
                "decision": GENERATED if distance < limit else NOT_GENERATED,
            }
        )
    return rows


def _told(result: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    low, high = result["auc_interval"]
    yield (
        f"area under the ROC curve {result['auc']:.3f} (95 % interval {low:.3f} to {high:.3f}), "
        f"{result['n_generated']} images of the network against {result['n_real']} real ones"
    )
    low, high = result["true_positives_interval"]
    yield (
        f"called generated: distance below {result['threshold']:.4f}, which real images like these are with a chance "
        f"of at most {result['false_positives_allowed']:g}; of the network's own {100 * result['true_positives']:.0f} "
        f"% are (interval {100 * low:.0f} to {100 * high:.0f} %)"
    )
    if rows:
        width = max(len(row["image"]) for row in rows)
        for row in rows:
            yield f"{row['image']:{width}}  {row['distance']:.4f}  p(real) {row['p_real']:.3f}  {row['decision']}"


def _draw(path: Path, own: list[float], real: list[float], result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Histograms of distances and the ROC curve, side by side."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = result["histograms"]["edges"]
    left.hist(real, edges, color="#0072b2", alpha=0.6, label="real, held out")
    left.hist(own, edges, color="#d55e00", alpha=0.6, label="of the network")
    left.axvline(result["threshold"], color="#20242a", linewidth=1, label="threshold")
    for row in rows:
        left.plot([row["distance"]], [0], marker="^", color="#20242a", clip_on=False)
    left.set_xlabel("distance after inversion")
    left.set_ylabel("images")
    left.legend(frameon=False, fontsize=8)
    roc = result["roc"]
    right.plot([0, *roc["false_positives"]], [0, *roc["true_positives"]], color="#20242a", drawstyle="steps-post")
    right.plot([0, 1], [0, 1], color="#646c77", linewidth=0.7, linestyle="--")
    right.set_xlabel("share of real images called generated")
    right.set_ylabel("share of generated images found")
    right.set_title(f"area {result['auc']:.3f}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
