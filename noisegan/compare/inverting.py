"""Inverting the networks of a comparison: in the worker of each run, or afterwards by `invert-eval --experiment`.

Both leave the same: inversion/<variant>-seed<n>/, an evaluation as `invert-eval` writes it. What one has made the other
takes over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from noisegan.compare.experiment import Experiment
from noisegan.compare.inversion_options import InversionOptions
from noisegan.compare.layout import Layout
from noisegan.core.config import TrainConfig
from noisegan.core.data import ImageDataset
from noisegan.errors import Interrupted, NoiseganError
from noisegan.files import unwritable
from noisegan.inversion.evaluate import REAL, check_labels, evaluate_inversion
from noisegan.inversion.evaluation_folder import evaluation_settings, other_settings, read_evaluation
from noisegan.inversion.heldout import HeldOut, choose_held_out
from noisegan.inversion.losses import make_loss
from noisegan.inversion.precision import check_precision
from noisegan.manager import Plugins
from noisegan.planning import pairing_data

TABLE = "[evaluation.inversion]"


class Inverter:
    """How a comparison inverts: its options, and the images that all its networks are asked to show.

    Args:
        folder: of all inversions; each run has one in it, by the name of its own folder.
        device: as for training.
    """

    def __init__(
        self, folder: Path, options: InversionOptions, held_out: HeldOut, plugins: Plugins, device: str
    ) -> None:
        self.folder, self.options, self.held_out = folder, options, held_out
        self._plugins, self._device = plugins, device

    def share(self, layout: Layout) -> None:
        """Put the images where the workers of all runs find them."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        self.held_out.save(layout.held_out)

    def evaluation(self, snapshot: Path, run: str) -> dict[str, Any] | None:
        """What was found with these options for this network, None where that is still to be done."""
        return read_evaluation(self.folder / run, self._settings(snapshot))

    def invert(self, snapshot: Path, run: str) -> Iterator[tuple[int, int]]:
        """Invert what is not there yet, and measure all. Yields (cells inverted, cells in all).

        Raises:
            NoiseganError: when the folder holds other inversions, or cannot be written.
            Interrupted: when the user stops; finished inversions are kept.
        """
        where, o = self.folder / run, self.options
        try:
            where.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(where, error) from error
        work = evaluate_inversion(
            snapshot, where, held_out=self.held_out, images=o.images, own_images=o.own, spaces=o.spaces,
            noises=o.noises, steps=o.steps, loss=o.loss, lr=o.lr, noise_weight=o.noise_weight,
            class_index=o.class_index, hard_labels=o.hard_labels, batch=o.batch, precision=o.precision,
            device=self._device, plugins=self._plugins,
        )  # fmt: skip
        cells, done = len(o.spaces) * len(o.noises) * (2 if o.own else 1), 0
        for line in work:
            if line.startswith("inverted: "):
                done += 1
                yield done, cells

    def refuse_other(self, snapshot: Path, run: str) -> None:
        """Raises:
        NoiseganError: when the folder of a run holds inversions that cannot be gone on with.
        """
        other = other_settings(self.folder / run, self._settings(snapshot))
        if not other:
            return
        anew = f"delete {self.folder} to invert all networks anew"
        if "network_sha256" in other:
            raise NoiseganError(
                f"{self.folder / run} holds inversions of another network than {snapshot.name}, which counts now: "
                f"{anew}"
            )
        raise NoiseganError(
            f"{self.folder / run} holds inversions made otherwise ({', '.join(other)} differ): set {TABLE} back, or "
            f"{anew}"
        )

    def _settings(self, snapshot: Path) -> dict[str, Any]:
        o = self.options
        return evaluation_settings(
            snapshot, o.projector, self.held_out, spaces=o.spaces, noises=o.noises, own_images=o.own,
            hard_labels=o.hard_labels, precision=o.precision,
        )  # fmt: skip

    def score(self, evaluation: Mapping[str, Any]) -> dict[str, Any]:
        """The score of a run, in the form of all others; its standard error is over images."""
        wanted = (REAL, self.options.spaces[0], self.options.noises[0])
        cell = next(c for c in evaluation["cells"] if (c["images"], c["space"], c["noise"]) == wanted)
        found = cell["summary"]["all"]["distance"]
        error = None if found["std"] is None else found["std"] / math.sqrt(found["n"])
        return {"value": found["mean"], "std_error": error, "by_evaluation_seed": [found["mean"]]}

    @property
    def protocol(self) -> dict[str, Any]:
        """What stands behind the score."""
        o, about = self.options, self.held_out.about
        return {
            "images": about["drawn"],
            "of": about["name"],
            "fingerprint": about["fingerprint"],
            "trained_on": about["trained_on"],
            "space": o.spaces[0],
            "noise": o.noises[0],
            "steps": o.steps,
            "loss": o.loss,
            "precision": o.precision,
        }


def draw_images(facts: Mapping[str, Any], options: InversionOptions) -> HeldOut:
    """The images that all networks are asked to show.

    Args:
        facts: of a snapshot, or what they will be: `config`, `dataset` and `pairing_data`.

    Raises:
        NoiseganError: as `choose_held_out` and `check_labels`.
    """
    held_out = choose_held_out(
        facts,
        count=options.images,
        data=options.data,
        resize=options.resize,
        crop=options.crop,
        labels=bool(options.hard_labels),
        seed=options.draw_seed,
        allow_trained=options.allow_trained,
    )
    check_labels(options.hard_labels, held_out)
    return held_out


def prepare_inverter(
    experiment: Experiment,
    layout: Layout,
    config: TrainConfig,
    dataset: ImageDataset,
    device: torch.device,
    plugins: Plugins,
) -> Inverter | None:
    """Draw the images for all runs and find whatever may be wrong with them; None where nothing is to be inverted.

    Args:
        config: of any run.
        dataset: what all are trained on.

    Raises:
        NoiseganError: when no image is held out, weights of the distances are missing, or float16 is asked of a CPU.
    """
    if not experiment.inverts:
        return None
    options = experiment.evaluation.inversion
    facts = {
        "config": config.model_dump(exclude={"outdir"}),
        "dataset": dataset.describe(),
        "pairing_data": pairing_data(dataset),
    }
    _check_class(options, dataset.c_dim)
    try:
        check_precision(options.precision, device)
        make_loss(options.loss, device)
        held_out = draw_images(facts, options)
    except Interrupted:
        raise
    except NoiseganError as error:
        # The sentences name options as commands spell them.
        raise NoiseganError(f"{TABLE}: {re.sub(r'--([a-z-]+)', _as_key, str(error))}") from None
    return Inverter(layout.inversion.parent, options, held_out, plugins, config.device)


def _check_class(options: InversionOptions, classes: int) -> None:
    """Raises:
    NoiseganError: for a class that the networks do not have, or none where one is needed.
    """
    index = options.class_index
    if index is None:
        if "z" in options.spaces and classes:
            raise NoiseganError(f"{TABLE} needs class_index: the networks have classes, and space z is one of a class")
    elif index >= classes:
        have = f"the classes 0 to {classes - 1}: choose one" if classes else "no classes: leave it out"
        raise NoiseganError(f"{TABLE}: class_index is {index}, and the networks have {have}")


def _as_key(option: re.Match[str]) -> str:
    return option[1].replace("-", "_")
