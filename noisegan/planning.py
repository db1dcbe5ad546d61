"""What a run is going to be: options, strategies, and where it starts from. Nothing is written here."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from noisegan import __version__
from noisegan.api import Strategy
from noisegan.core.checkpoint import find_snapshot, read_facts, snapshots
from noisegan.core.config import RESUMABLE, TrainConfig, networks
from noisegan.core.data import BUILT_IN, ImageDataset, open_dataset
from noisegan.core.reporting import counting
from noisegan.core.runfolder import check_desc, read_options
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins, bind


@dataclass(frozen=True)
class Plan:
    """A run about to start.

    Attributes:
        config: resolved options.
        strategies: noise strategies in order of application.
        resumed: the folder of the run that is gone on from, or None.
        snapshot: where its state comes from; None: from the beginning.
        in_place: go on in that folder.
        saved: what that run recorded.
        notes: what the user should know, a line each.
    """

    config: TrainConfig
    strategies: tuple[Strategy, ...]
    resumed: Path | None = None
    snapshot: Path | None = None
    in_place: bool = False
    saved: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def plan_run(options: dict[str, Any], resume: Path | None, plugins: Plugins) -> Plan:
    """Resolve options, and with `resume` lay them over those of a run.

    Raises:
        NoiseganError: for a bad option; on resume when an option differs that may not, when later snapshots would be
            overwritten, or when a plugin is missing.
    """
    if options.get("desc") is not None:
        check_desc(options["desc"])
    if resume is None:
        config = TrainConfig(**options).resolve()
        return Plan(config, plugins.parse(config.noise))
    folder, snapshot, saved = _saved_run(resume)
    known = saved["config"]
    given = TrainConfig(**({"data": known["data"], "outdir": str(folder.parent)} | options))
    in_place = Path(given.outdir).resolve() == folder.parent.resolve()
    if in_place and snapshot is not None:
        later = [p.name for p in snapshots(folder) if read_facts(p)["nimg"] > saved["nimg"]]
        if later:
            raise NoiseganError(
                f"{folder} holds later snapshots than {snapshot.name}: resume the folder, or give another --outdir to "
                "go on from here in a run of its own"
            )
    strategies = saved_strategies(resume, saved, plugins)
    _refuse_differences(resume, known, given, set(options), strategies, plugins)
    changed = {name: getattr(given, name) for name in set(options) & set(RESUMABLE)}
    config = TrainConfig(**(known | {"outdir": given.outdir} | changed)).resolve()
    notes = changed_plugins(saved, plugins.source_of(strategies))
    return Plan(config, strategies, folder, snapshot, in_place, saved, notes)


def open_data(config: TrainConfig, *, silent: bool) -> ImageDataset:
    """The data set that a config names."""
    with counting("reading images", silent=silent) as progress:
        return open_dataset(
            config.data,
            resolution=config.resolution,
            resize=config.resize,
            crop=config.crop,
            mirror=config.mirror,
            cond=config.cond,
            workers=config.workers,
            progress=progress,
        )


def resolve_with_data(plan: Plan, dataset: ImageDataset, plugins: Plugins) -> tuple[TrainConfig, dict[str, Any]]:
    """The config with everything filled in, and what training_options.json and snapshots record.

    Raises:
        NoiseganError: when a resumed run was trained on other data.
    """
    # A run is resumed from any folder, so a path is recorded whole.
    given = plan.config.data
    path = given if given in BUILT_IN else str(Path(given).expanduser().absolute())
    config = plan.config.model_copy(update={"resolution": dataset.resolution, "data": path})
    data = dataset.describe()
    options = {
        # Without the output folder, so that equal runs write equal snapshots wherever they are.
        "config": config.model_dump(exclude={"outdir"}),
        "dataset": data,
        "networks": networks(config, resolution=dataset.resolution, img_channels=dataset.channels, c_dim=dataset.c_dim),
        "noise": noise_record(plan.strategies, plugins),
        "pairing_data": pairing_data(dataset),
        "versions": {"noisegan": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    if plan.saved and plan.saved["pairing_data"] != options["pairing_data"]:
        raise NoiseganError(
            f"the run {plan.resumed} was trained on other data ({plan.saved['pairing_data']}) than {path} holds now "
            f"({options['pairing_data']}): give the same data with --data"
        )
    if any(strategy.spec.image is not None for strategy in plan.strategies):
        saved = plan.saved.get("dataset", {})
        data["deviation"] = saved["deviation"] if "deviation" in saved else dataset.deviation()
    return config, options


def pairing_data(dataset: ImageDataset) -> str:
    """What images a run is trained on, and how they were prepared; equal strings mean equal images."""
    data = dataset.describe()
    prepared = " ".join(f"{key}={data[key]}" for key in ("resize", "crop", "mirror", "cond", "resolution"))
    return f"{data['fingerprint']} {prepared}"


def noise_record(strategies: tuple[Strategy, ...], plugins: Plugins) -> list[dict[str, Any]]:
    """What is recorded of strategies: where each comes from, and its parameters."""
    return [
        source | {"params": strategy.arguments()}
        for source, strategy in zip(plugins.source_of(strategies), strategies, strict=True)
    ]


def saved_strategies(path: Path, saved: dict[str, Any], plugins: Plugins) -> tuple[Strategy, ...]:
    """The strategies of a run or snapshot, with the parameters that it was trained with.

    Raises:
        NoiseganError: when one's plugin is not installed; the message says which to install.
    """
    strategies = []
    for noise in saved["noise"]:
        name = noise["strategy"]
        if name not in plugins.strategies:
            cure = {
                "file": f"give --plugin {noise['location']} (in Python: plugins=Plugins(['{noise['location']}']) of "
                "noisegan.manager)",
                "entry point": f"install it with: pip install {noise['location']}",
            }.get(noise["origin"], f"install noisegan {noise['version']}")
            raise NoiseganError(
                f"{path} was trained with the noise strategy {name!r} of plugin {noise['plugin']!r} "
                f"({noise['origin']}, version {noise['version']}), which is not here: {cure}"
            )
        strategies.append(bind(plugins.spec(name), noise["params"]))
    return tuple(strategies)


def changed_plugins(saved: dict[str, Any], now: list[dict[str, str]]) -> tuple[str, ...]:
    """A line for each plugin whose version is not the one that the run was trained with."""
    return tuple(
        f"warning: plugin {before['plugin']!r} had version {before['version']} when this run started and has "
        f"{after['version']} now; results may differ"
        for before, after in zip(saved["noise"], now, strict=True)
        if before["version"] != after["version"]
    )


def _saved_run(resume: Path) -> tuple[Path, Path | None, dict[str, Any]]:
    """Folder, snapshot and record of the run at `resume`."""
    if not resume.is_dir():
        snapshot = find_snapshot(resume)
        return snapshot.parent, snapshot, read_facts(snapshot)
    found = snapshots(resume)
    return (resume, found[-1], read_facts(found[-1])) if found else (resume, None, read_options(resume))


def _refuse_differences(
    resume: Path,
    known: dict[str, Any],
    given: TrainConfig,
    names: set[str],
    strategies: tuple[Strategy, ...],
    plugins: Plugins,
) -> None:
    differing = [
        f"{name} {known.get(name)!r} -> {getattr(given, name)!r}"
        for name in TrainConfig.model_fields
        if name in names and name not in (*RESUMABLE, "noise") and known.get(name) != getattr(given, name)
    ]
    if "noise" in names and plugins.parse(given.noise) != strategies:
        differing.insert(0, f"noise {known['noise']!r} -> {given.noise!r}")
    if differing:
        raise NoiseganError(
            f"--resume {resume} goes on with the run's own options, but these differ: {'; '.join(differing)}; "
            "leave them out, or start a new run"
        )
