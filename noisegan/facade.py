"""What `import noisegan` offers: train a run, load a snapshot, build a generator by the name of its noise."""

from __future__ import annotations

import platform
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from noisegan import __version__
from noisegan.api import Strategy
from noisegan.core import generator as core_generator
from noisegan.core.checkpoint import find_snapshot, read_facts, read_tensors, snapshots
from noisegan.core.config import TrainConfig, changed_options, networks
from noisegan.core.data import BUILT_IN, ImageDataset, open_dataset
from noisegan.core.discriminator import Discriminator
from noisegan.core.distributed import World, join_world, leave_world, pick_device
from noisegan.core.reporting import Reporter, counting
from noisegan.core.runfolder import OPTIONS, RunFolder, read_options
from noisegan.core.trainer import Trainer
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins, bind


class Generator(core_generator.Generator):
    """The StyleGAN2 generator; `noise` is an expression such as `"fuzzy(alpha=0.3)"`.

    Args:
        noise: a strategy expression, or strategies with parameters.
        plugins: where to look strategies up; default: the installed plugins.
        **arguments: as `noisegan.core.generator.Generator`.
    """

    def __init__(
        self, *, noise: str | tuple[Strategy, ...] = "additive", plugins: Plugins | None = None, **arguments: Any
    ) -> None:
        super().__init__(noise=(plugins or Plugins()).parse(noise) if isinstance(noise, str) else noise, **arguments)


class Snapshot:
    """A snapshot on disk; networks are built when asked for."""

    def __init__(self, path: Path, plugins: Plugins, device: torch.device) -> None:
        self.path, self.device, self._plugins = path, device, plugins
        self.facts = read_facts(path)
        self.strategies = saved_strategies(path, self.facts, plugins)

    @cached_property
    def G_ema(self) -> Generator:
        """The averaged generator, which makes the images."""
        return self._generator("G_ema.")

    @cached_property
    def G(self) -> Generator:
        """The generator as trained."""
        return self._generator("G.")

    @cached_property
    def D(self) -> Discriminator:
        """The discriminator."""
        D = Discriminator(**self.facts["networks"]["D"])
        D.load_state_dict(read_tensors(self.path, "D."), strict=True)
        return D.to(self.device).eval().requires_grad_(False)

    def _generator(self, prefix: str) -> Generator:
        G = Generator(**self.facts["networks"]["G"], noise=self.strategies)
        try:
            G.load_state_dict(read_tensors(self.path, prefix), strict=True)
        except RuntimeError as error:
            raise NoiseganError(f"the weights in {self.path} do not fit its own description: {error}") from None
        return G.to(self.device).eval().requires_grad_(False)


def load(path: str | Path, *, plugins: Plugins | None = None, device: str = "cpu") -> Snapshot:
    """Open a snapshot, or the last one of a run folder.

    Args:
        path: a `network-snapshot-*.safetensors` file or a run folder.
        plugins: where to look strategies up; default: the installed plugins.
        device: `cpu`, `cuda`, `mps` or `auto`.

    Raises:
        NoiseganError: when there is none, it is damaged, or a plugin that it needs is not installed.
    """
    return Snapshot(find_snapshot(path), plugins or Plugins(), pick_device(device))


def train(
    config: TrainConfig | None = None,
    *,
    resume: str | Path | None = None,
    plugins: Plugins | None = None,
    quiet: bool = False,
    **options: Any,
) -> Path:
    """Train a generator; the same as `noisegan train`.

    Args:
        config: what to train; or give its fields as keyword arguments.
        resume: a run folder or snapshot to go on from. Options given beside it must agree with the saved ones, save
            those that may change (kimg, tick, snap, device, workers, batch_gpu).
        plugins: where to look strategies up; default: the installed plugins.
        quiet: print nothing (log.txt is still written).

    Returns:
        The run folder.

    Raises:
        NoiseganError: for a mistake in the options or the data, or a loss that is not finite.
        Interrupted: when the user stops the run; its state is saved.
    """
    plugins = plugins or Plugins()
    if config is not None:
        options = config.model_dump(exclude_unset=True) | options
    snapshot: Path | None = None
    if resume is not None:
        config, snapshot = resumed_config(Path(resume), options, plugins)
    else:
        config = TrainConfig.make(**options)
    config = config.resolve()
    strategies = plugins.parse(config.noise)
    world = join_world(config.device)
    config.micro_batch(world.size)
    config.check_device(world.device.type)
    dataset = open_config_data(config, silent=quiet or not world.is_main)
    config, run_options = resolve_with_data(config, dataset, strategies, plugins)
    trainer = Trainer(config, run_options, strategies, dataset, world=world, hook=plugins.hook)
    if snapshot is not None:
        _check_same_data(snapshot, run_options)
        trainer.restore(snapshot)
    in_place = resume is not None and "outdir" not in options
    folder = _open_folder(config, Path(resume) if in_place and resume else None, world, run_options, dataset)
    try:
        where: str = world.share(str(folder.path) if folder else None)
        reporter = Reporter(folder, config.total_nimg, trainer.nimg, quiet=quiet)
        if folder:
            folder.rewind_stats(trainer.nimg)
            folder.write_json(OPTIONS, {"outdir": str(config.outdir)} | run_options)
            reporter.line(_headline(config, run_options, trainer, where))
        trainer.run(folder, reporter)
        if folder:
            reporter.line(f"done: {where}")
    finally:
        if folder:
            folder.close()
    leave_world(world)
    return Path(where)


def dry_run(*, resume: str | Path | None = None, plugins: Plugins | None = None, **options: Any) -> dict[str, Any]:
    """What `train` would record, with everything resolved and checked; nothing is written."""
    plugins = plugins or Plugins()
    config = resumed_config(Path(resume), options, plugins)[0] if resume is not None else TrainConfig.make(**options)
    config = config.resolve()
    config.micro_batch(1)
    config.check_device(pick_device(config.device).type)
    return resolve_with_data(config, open_config_data(config), plugins.parse(config.noise), plugins)[1]


def resumed_config(resume: Path, options: dict[str, Any], plugins: Plugins) -> tuple[TrainConfig, Path | None]:
    """The saved options with the new ones laid over, and the snapshot to start from (None: before the first).

    Raises:
        NoiseganError: when an option differs that may not, later snapshots would be overwritten, or a plugin is missing.
    """
    if resume.is_dir():
        snapshot = snapshots(resume)[-1] if snapshots(resume) else None
        saved = read_options(resume)
        folder = resume
    else:
        snapshot = find_snapshot(resume)
        saved = read_facts(snapshot)
        folder = snapshot.parent
        later = [p for p in snapshots(snapshot.parent) if p != snapshot and read_facts(p)["nimg"] > saved["nimg"]]
        if later and "outdir" not in options:
            raise NoiseganError(
                f"{snapshot.parent} holds later snapshots than {snapshot.name}: resume the folder, or give --outdir "
                "to go on from here in a run of its own"
            )
    saved_strategies(resume, saved, plugins)
    known = saved["config"]
    differing = changed_options(known, options)
    if differing:
        raise NoiseganError(
            f"--resume {resume} goes on with the run's own options, but these differ: {'; '.join(differing)}; "
            "leave them out, or start a new run"
        )
    return TrainConfig.make(**({"outdir": str(folder.parent)} | known | options)), snapshot


def open_config_data(config: TrainConfig, *, silent: bool = False) -> ImageDataset:
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


def resolve_with_data(
    config: TrainConfig, dataset: ImageDataset, strategies: tuple[Strategy, ...], plugins: Plugins
) -> tuple[TrainConfig, dict[str, Any]]:
    """The config with everything filled in, and what training_options.json and snapshots record."""
    # A run is resumed from any folder, so a path is recorded whole.
    path = config.data if config.data in BUILT_IN else str(Path(config.data).absolute())
    config = config.model_copy(update={"resolution": dataset.resolution, "data": path})
    data = dataset.describe()
    sources = plugins.source_of(strategies)
    options = {
        # Without the output folder, so that equal runs write equal snapshots wherever they are.
        "config": config.model_dump(exclude={"outdir"}),
        "dataset": data,
        "networks": networks(config, resolution=dataset.resolution, img_channels=dataset.channels, c_dim=dataset.c_dim),
        "noise": [
            source | {"params": strategy.params.model_dump()}
            for source, strategy in zip(sources, strategies, strict=True)
        ],
        "pairing_data": f"{data['fingerprint']} resize={data['resize']} crop={data['crop']} mirror={data['mirror']}"
        f" cond={data['cond']} resolution={data['resolution']}",
        "versions": {"noisegan": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    return config, options


def saved_strategies(path: Path, facts: dict[str, Any], plugins: Plugins) -> tuple[Strategy, ...]:
    """The strategies of a snapshot.

    Raises:
        NoiseganError: when one's plugin is not installed; the message says which to install.
    """
    strategies = []
    for saved in facts["noise"]:
        name = saved["strategy"]
        if name not in plugins.strategies:
            cure = {
                "file": f"give --plugin {saved['location']}",
                "entry point": f"install it with: pip install {saved['location']}",
            }.get(saved["origin"], f"install noisegan {saved['version']}")
            raise NoiseganError(
                f"{path} was trained with the noise strategy {name!r} of plugin {saved['plugin']!r} "
                f"({saved['origin']}, version {saved['version']}), which is not here: {cure}"
            )
        strategies.append(bind(plugins.spec(name), saved["params"]))
    return tuple(strategies)


def _open_folder(
    config: TrainConfig, resumed: Path | None, world: World, options: dict[str, Any], dataset: ImageDataset
) -> RunFolder | None:
    if not world.is_main:
        return None
    if resumed is not None:
        return RunFolder.open(resumed if resumed.is_dir() else resumed.parent)
    noise = "+".join(strategy["strategy"] for strategy in options["noise"])
    return RunFolder.create(config.outdir, config.desc or f"{dataset.name}-{config.cfg}-{noise}", options)


def _check_same_data(snapshot: Path, options: dict[str, Any]) -> None:
    saved = read_facts(snapshot)["pairing_data"]
    if saved != options["pairing_data"]:
        raise NoiseganError(
            f"{snapshot} was trained on other data ({saved}) than {options['config']['data']} holds now "
            f"({options['pairing_data']}): give the same data with --data"
        )


def _headline(config: TrainConfig, options: dict[str, Any], trainer: Trainer, where: str) -> str:
    data, parameters = options["dataset"], sum(p.numel() for p in trainer.state.G.parameters())
    start = f", from {trainer.nimg / 1000:g} kimg" if trainer.nimg else ""
    return (
        f"{where}: {trainer.noise} on {data['name']} ({len(trainer.dataset)} images, {data['channels']} channels, "
        f"{data['resolution']} px), G {parameters / 1e6:.2f} M parameters, seed {config.seed}, "
        f"batch {config.batch}, {config.kimg:g} kimg{start}, on {trainer.world.device}"
    )
