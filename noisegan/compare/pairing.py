"""Are the runs of a comparison paired, and does nothing but what may differ?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from noisegan.errors import NoiseganError

COMPARED = ("data", "initial_weights", "data_order", "z", "steps")
_MEANING = {
    "data": "other images, or prepared in another way",
    "initial_weights": "other starting weights in the layers they share",
    "data_order": "the images in another order",
    "z": "other latents",
    "steps": "another number of training steps",
}
UNPAIRING = ("kimg", "batch", "cfg", "z_dim", "w_dim", "map_depth", "cbase", "cmax", "g_arch", "d_arch")
"""Training options that change what a run meets or the weights it starts from: runs that differ in one are unpaired."""


def pairing_problems(certificates: Mapping[tuple[str, int], Mapping[str, Any]], baseline: str) -> list[str]:
    """A sentence for each run that is not paired with the baseline's run of the same seed.

    Args:
        certificates: by (label, seed).
    """
    problems = []
    for (label, seed), certificate in certificates.items():
        reference = certificates.get((baseline, seed))
        if label == baseline or reference is None:
            continue
        differing = [_MEANING[key] for key in COMPARED if certificate[key] != reference[key]]
        if differing:
            problems.append(f"{label!r} with seed {seed} met {' and '.join(differing)} than {baseline!r}")
    return problems


def config_differences(
    configs: Mapping[tuple[str, int], Mapping[str, Any]],
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What the runs' recorded options share, and what differs: option -> label -> value (of the label's first run).

    Options that an experiment sets for each run (`seed`, `desc`) are left out of both.
    """
    shared: dict[str, Any] = {}
    differing: dict[str, dict[str, Any]] = {}
    options = dict.fromkeys(option for config in configs.values() for option in config)
    for option in options:
        if option in ("seed", "desc"):
            continue
        values = [config.get(option) for config in configs.values()]
        if all(value == values[0] for value in values):
            shared[option] = values[0]
        else:
            by_label: dict[str, Any] = {}
            for (label, _), config in configs.items():
                by_label.setdefault(label, config.get(option))
            differing[option] = by_label
    return shared, differing


def strange_differences(differing: Iterable[str], allowed: Sequence[str]) -> list[str]:
    """A sentence if options differ that the experiment does not let differ."""
    strange = [name for name in differing if name not in ("noise", *allowed)]
    return [f"the runs differ in {', '.join(strange)} beside their noise"] if strange else []


def refuse_unpaired(problems: Sequence[str]) -> None:
    """Raises:
    NoiseganError: when there are problems; it says how to insist.
    """
    if problems:
        raise NoiseganError(
            f"these runs are not paired, so their differences are not due to the noise alone: {'; '.join(problems)}. "
            "Train them with equal options, or set allow_unpaired = true (--allow-unpaired) to have the report say so"
        )
