"""What `import noisegan` offers: train a run, load a snapshot, build a generator by the name of its noise."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from noisegan.api import Strategy
from noisegan.core import generator as core_generator
from noisegan.core.checkpoint import find_snapshot, read_facts, read_tensors
from noisegan.core.config import TrainConfig
from noisegan.core.data import ImageDataset
from noisegan.core.discriminator import Discriminator
from noisegan.core.distributed import World, computes_bfloat16, join_world, leave_world, pick_device
from noisegan.core.layers import settle
from noisegan.core.reporting import Reporter
from noisegan.core.runfolder import DESC_LENGTH, OPTIONS, RunFolder
from noisegan.core.trainer import Trainer
from noisegan.errors import NoiseganError
from noisegan.ext.load import backend_of
from noisegan.manager import Plugins
from noisegan.planning import Plan, open_data, plan_run, resolve_with_data, saved_strategies


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
        self.path, self.device = path, device
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
        settle(D, self.device)
        return D.eval().requires_grad_(False)

    def _generator(self, prefix: str) -> Generator:
        G = Generator(**self.facts["networks"]["G"], noise=self.strategies)
        try:
            G.load_state_dict(read_tensors(self.path, prefix), strict=True)
        except RuntimeError as error:
            raise NoiseganError(f"the weights in {self.path} do not fit its own description: {error}") from None
        settle(G, self.device)
        return G.eval().requires_grad_(False)


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
    folder: str | Path | None = None,
    plugins: Plugins | None = None,
    quiet: bool = False,
    **options: Any,
) -> Path:
    """Train a generator; the same as `noisegan train`.

    Args:
        config: what to train; or give its fields as keyword arguments.
        resume: a run folder or snapshot to go on from, in place unless another outdir is given. Options given beside
            it must agree with the saved ones, save those that may change (kimg, tick, snap, device, workers,
            batch_gpu, graphs).
        folder: the run folder itself, instead of a numbered one in `outdir`. If the run is there already it is gone on
            with, so the same call may be repeated until it ends well.
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
    if folder is not None:
        options["outdir"] = str(Path(folder).parent)
        resume = folder if Path(folder).exists() else None
    plan = plan_run(options, Path(resume) if resume is not None else None, plugins)
    world = join_world(plan.config.device)
    plan.config.check_world(world.size, world.device.type)
    dataset = open_data(plan.config, silent=quiet or not world.is_main)
    config, run_options = resolve_with_data(plan, dataset, plugins)
    trainer = Trainer(config, run_options, plan.strategies, dataset, world=world, hook=plugins.hook)
    if plan.snapshot is not None:
        trainer.restore(plan.snapshot)
    finished = plan.snapshot is not None and trainer.nimg >= config.total_nimg
    if finished and not (plan.in_place and config.kimg == plan.saved["config"]["kimg"]):
        raise NoiseganError(f"{plan.snapshot} is at {trainer.nimg / 1000:g} kimg already; give a larger --kimg")
    run = _open_folder(config, plan, world, run_options, dataset, Path(folder) if folder is not None else None)
    try:
        where: str = world.share(str(run.path) if run else None)
        reporter = Reporter(run, config.total_nimg, trainer.nimg, quiet=quiet)
        if run:
            run.rewind_stats(trainer.nimg)
            for note in plan.notes:
                reporter.line(note)
            reporter.line(_headline(config, run_options, trainer, where))
            if config.precision == "bf16" and world.device.type == "cpu" and not computes_bfloat16():
                reporter.line("this CPU does not compute in bfloat16: --precision bf16 is slower here than fp32")
        try:
            trainer.run(run, reporter)
        except NoiseganError as error:
            if run:
                with suppress(NoiseganError):  # a full disk must not hide what happened
                    run.log(str(error))
            raise
        if run:
            reporter.line(
                f"nothing left to train; give a larger --kimg to go on: {where}" if finished else f"done: {where}"
            )
    finally:
        if run:
            run.close()
    leave_world(world)
    return Path(where)


def dry_run(*, resume: str | Path | None = None, plugins: Plugins | None = None, **options: Any) -> dict[str, Any]:
    """What `train` would record, with everything resolved and checked; nothing is written."""
    plugins = plugins or Plugins()
    plan = plan_run(options, Path(resume) if resume is not None else None, plugins)
    plan.config.check_world(1, pick_device(plan.config.device).type)
    config, run_options = resolve_with_data(plan, open_data(plan.config, silent=False), plugins)
    return {"outdir": config.outdir} | run_options


def _open_folder(
    config: TrainConfig,
    plan: Plan,
    world: World,
    options: dict[str, Any],
    dataset: ImageDataset,
    path: Path | None,
) -> RunFolder | None:
    if not world.is_main:
        return None
    if plan.in_place and plan.resumed is not None:
        folder = RunFolder.open(plan.resumed)
        folder.write_json(OPTIONS, {"outdir": config.outdir} | options)
        return folder
    if path is not None:
        return RunFolder.create_at(path, options)
    noise = "+".join(strategy["strategy"] for strategy in options["noise"])
    desc = config.desc if config.desc is not None else f"{dataset.name}-{config.cfg}-{noise}"[:DESC_LENGTH]
    return RunFolder.create(config.outdir, desc, options)


def _headline(config: TrainConfig, options: dict[str, Any], trainer: Trainer, where: str) -> str:
    data, parameters = options["dataset"], sum(p.numel() for p in trainer.state.G.parameters())
    start = f", from {trainer.nimg / 1000:g} kimg" if trainer.nimg else ""
    resize = f" by {data['resize']}" if data["resize"] else ""
    return (
        f"{where}: {trainer.noise} on {data['name']} ({len(trainer.dataset)} images, {data['channels']} channels, "
        f"{data['resolution']} px{resize}), G {parameters / 1e6:.2f} M parameters, seed {config.seed}, "
        f"batch {config.batch}, {config.kimg:g} kimg{start}, on {trainer.world.device}, "
        f"operations: {backend_of(trainer.world.device)}"
    )
