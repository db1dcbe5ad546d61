"""Runs a comparison: train what is missing, score it, put the results and the report into the folder.

Everything is found again in files, so a comparison that was stopped anywhere goes on when it is started again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from noisegan.compare.board import Board
from noisegan.compare.executor import Executor, LocalExecutor, cuda_devices, default_threads
from noisegan.compare.experiment import Experiment, Variant, read_experiment, refuse_another
from noisegan.compare.inversion import write_inversions
from noisegan.compare.inverting import Inverter, prepare_inverter
from noisegan.compare.layout import Layout
from noisegan.compare.report import write_report
from noisegan.compare.report.inversion import inversion_section
from noisegan.compare.results import build_results, gather
from noisegan.compare.scoring import Scorer, read_json
from noisegan.compare.worker import Job
from noisegan.core.distributed import pick_device
from noisegan.core.reporting import counting
from noisegan.core.runfolder import locked
from noisegan.errors import Interrupted, NoiseganError
from noisegan.files import write_json
from noisegan.manager import Plugins
from noisegan.planning import open_data


def compare(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    outdir: str | Path = "comparison",
    *,
    jobs: int = 1,
    plugins: Sequence[str | Path] = (),
    executor: Executor | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train, score and compare noise strategies; the same as `noisegan compare`.

    Args:
        experiment: an experiment, its content as a dict, or the path of a TOML file.
        outdir: the comparison's folder. One that was stopped there is gone on with.
        jobs: runs at a time, each in a process of its own.
        plugins: Python files to load as plugins.
        executor: where runs are worked on; default: `jobs` processes on this machine.
        quiet: print nothing.

    Returns:
        The content of results.json (docs/results.md), plain data.

    Raises:
        NoiseganError: for a mistake in the experiment, runs that are not paired, or when runs have failed (the others
            are reported all the same).
        Interrupted: when the user stops it; the same call goes on.
    """
    if jobs < 1:
        raise NoiseganError(f"--jobs must be 1 or more, not {jobs}")
    files = tuple(str(Path(file).absolute()) for file in plugins)
    loaded = Plugins(files)
    experiment = _as_experiment(experiment).resolve(loaded)
    console = Console(quiet=quiet)
    layout, threads = Layout(outdir), default_threads(jobs)
    with _own_folder(layout):
        scorer, inverter = _prepare(experiment, layout, loaded, silent=quiet)
        known = _known(layout, experiment)
        work = [
            (variant, Job(str(layout.folder), variant.label, seed, files))
            for seed in experiment.seeds or ()  # seeds outside: all variants get their first replicate early
            for variant in experiment.variants
        ]
        done = [job for variant, job in work if _is_done(variant, job, experiment, layout, scorer, inverter)]
        if known != experiment.as_dict():
            write_json(layout.experiment, experiment.as_dict())
        if inverter is not None:
            inverter.share(layout)
        console.print(_headline(experiment, layout, jobs, threads), highlight=False, markup=False, soft_wrap=True)
        with Board([job for _, job in work], scorer.columns[0], console) as board:
            for job in done:
                board.note(job, {"event": "done"})
            left = [(job, layout.log(variant, job.seed)) for variant, job in work if job not in done]
            try:
                with _stoppable():
                    (executor or LocalExecutor(jobs, threads, _gpus(experiment))).run(left, board.note)
            except KeyboardInterrupt:
                raise Interrupted(
                    f"interrupted; what was trained is saved in {layout.folder}. Run the same command again to go on"
                ) from None
        runs = gather(layout, scorer, board.errors, inverter)
        if not any(run.done for run in runs):
            raise NoiseganError(
                f"all runs failed; the first: {next(iter(board.errors.values()))}; logs are in {layout.folder / 'logs'}"
            )
        results = build_results(layout, scorer, runs, threads=threads, inverter=inverter)
        write_json(layout.results, results)
        if inverter is not None:
            write_inversions(layout, results, [run.inversion for run in runs if run.inversion is not None])
        report(layout.folder, plugins=loaded)
    if board.errors:
        raise NoiseganError(
            f"{len(board.errors)} of {len(runs)} runs failed and are missing from {layout.report}: "
            + "; ".join(f"{label!r} with seed {seed}: {why}" for (label, seed), why in board.errors.items())
            + f". Mend the cause and run the same command again; their logs are in {layout.folder / 'logs'}"
        )
    return results


def report(folder: str | Path, *, plugins: Plugins | None = None) -> Path:
    """Write the report of a comparison anew from its results.json; nothing is trained. Returns the page.

    Raises:
        NoiseganError: when there are no results.
    """
    layout = Layout(folder)
    results = read_json(layout.results)
    if results is None:
        raise NoiseganError(f"{layout.folder} holds no {layout.results.name}: finish the comparison there first")
    sections = [part for parts in (plugins or Plugins()).hook.report_sections(results=results) for part in parts]
    inversion = read_json(layout.inversion)
    if inversion is not None:
        sections.insert(0, inversion_section(layout.inversion.parent, inversion, results))
    return write_report(layout.folder, sections=sections)


def _as_experiment(experiment: Experiment | Mapping[str, Any] | str | Path) -> Experiment:
    if isinstance(experiment, Experiment):
        return experiment
    return read_experiment(experiment) if isinstance(experiment, (str, Path)) else Experiment(**experiment)


def _prepare(
    experiment: Experiment, layout: Layout, plugins: Plugins, *, silent: bool
) -> tuple[Scorer, Inverter | None]:
    """Whatever may be wrong with data, metrics, extractors and inversions is found before anything is trained."""
    config = experiment.config(experiment.variants[0], (experiment.seeds or (0,))[0]).resolve()
    device = pick_device(config.device)
    config.check_world(1, device.type)
    dataset = open_data(config, silent=silent)
    with counting("features of real images", silent=silent) as progress:
        scorer = Scorer(experiment, plugins, dataset, device, progress=progress)
        _ = scorer.real  # computed once, here, for all workers
    return scorer, prepare_inverter(experiment, layout, config, dataset, device, plugins)


def _is_done(
    variant: Variant, job: Job, experiment: Experiment, layout: Layout, scorer: Scorer, inverter: Inverter | None
) -> bool:
    """Whether nothing is left to do for a run.

    Raises:
        NoiseganError: when its inversions are others than the experiment asks for.
    """
    config, run = experiment.config(variant, job.seed).resolve(), layout.run(variant, job.seed)
    snapshot = scorer.finished(run, config, layout.evaluations(variant, job.seed))
    if snapshot is None or inverter is None:
        return snapshot is not None
    inverter.refuse_other(snapshot, run.name)
    return inverter.evaluation(snapshot, run.name) is not None


def _known(layout: Layout, experiment: Experiment) -> dict[str, Any] | None:
    """The content of experiment.json, None where there is none.

    Raises:
        NoiseganError: when the folder belongs to another experiment.
    """
    known = read_json(layout.experiment)
    if known is not None:
        try:
            before = Experiment(**known).as_dict()
        except NoiseganError as error:
            raise NoiseganError(f"{layout.experiment} is damaged, or of another version: {error}") from None
        refuse_another(before, experiment.as_dict(), layout.folder)
    return known


@contextmanager
def _own_folder(layout: Layout) -> Iterator[None]:
    """Make the folder and keep other comparisons out of it.

    Raises:
        NoiseganError: when it cannot be made, is used for something else, or another process works in it.
    """
    folder = layout.folder
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not layout.experiment.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
                raise NoiseganError(f"{folder} is not empty and holds no comparison: choose another --outdir")
            held.enter_context(locked(folder, f"another comparison runs in {folder}: wait for it or stop it"))
        except OSError as error:
            why = error.strerror or error
            raise NoiseganError(f"cannot write to {folder}: {why}; choose another --outdir") from None
        yield


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM interrupts as SIGINT does, and both do so in a process that was started in the background."""
    before: dict[signal.Signals, Any] = {}
    try:
        for name in (signal.SIGINT, signal.SIGTERM):
            before[name] = signal.signal(name, signal.default_int_handler)
    except ValueError:  # not in the main thread: the caller's handlers stay
        before.clear()
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler or signal.SIG_DFL)


def _gpus(experiment: Experiment) -> list[str]:
    """The GPUs that workers are spread over: all, unless the experiment names one."""
    device = experiment.config(experiment.variants[0], 0).device
    return cuda_devices() if device in ("auto", "cuda") else []


def _headline(experiment: Experiment, layout: Layout, jobs: int, threads: int) -> str:
    seeds = experiment.seeds or ()
    return (
        f"{layout.folder}: {len(experiment.variants)} variants x {len(seeds)} replicates on "
        f"{experiment.train['data']}, baseline {experiment.baseline}; {jobs} at a time with {threads} "
        f"thread{'s' if threads > 1 else ''} each (process {os.getpid()})"
    )
