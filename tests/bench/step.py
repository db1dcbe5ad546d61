"""Whole training steps and sampling: noisegan beside the straightforward implementation and beside the floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from bench.measure import medians
from bench.worker import Candidate, Worker
from bench.workload import Times, batch_of

STRATEGIES = ("none", "additive", "fuzzy", "instance", "roth", "filtering")
"""Those of the generator beyond these: `bench.generator`. The last three cost in the discriminator's phases."""


def run(
    sizes: Sequence[str],
    *,
    precisions: Sequence[str],
    impls: Sequence[str],
    threads: int,
    device: str,
    rounds: int,
    tell: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """A row per size, precision and implementation.

    Seconds of an average step with its phases, of sampling a batch, and of the same convolutions run bare. All
    candidates of a size take turns.
    """
    for size in sizes:
        candidates = [
            Candidate(size, precision=precision, impl=impl, threads=threads, device=device, floor=impl == "noisegan")
            for precision in precisions
            for impl in impls
        ]
        yield from _rows(candidates, rounds=rounds, tell=tell)


def strategies(
    sizes: Sequence[str],
    *,
    precisions: Sequence[str],
    threads: int,
    device: str,
    rounds: int,
    tell: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """A row per size, precision and one of `STRATEGIES`, with its overhead over `none` in training and sampling."""
    for size in sizes:
        for precision in precisions:
            candidates = [
                Candidate(size, precision, strategy=name, threads=threads, device=device) for name in STRATEGIES
            ]
            rows = list(_rows(candidates, rounds=rounds, tell=tell))
            none = rows[0]
            for row in rows:
                row |= {f"{what}_overhead": row[f"{what}_s"] / none[f"{what}_s"] - 1 for what in ("train", "sample")}
            yield from rows


def _rows(candidates: Sequence[Candidate], *, rounds: int, tell: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Rounds in turns; a row each."""
    size = candidates[0].size
    with ExitStack() as stack:
        workers, backends = [], []
        for candidate in candidates:  # one after another: warming up together, they would fight for the cores
            tell(f"{size}: starting {candidate.impl}, {candidate.precision}, {candidate.strategy}")
            workers.append(stack.enter_context(Worker(candidate)))
            backends.append(workers[-1].ready())
        times: list[list[Times]] = [[] for _ in workers]
        for number in range(rounds):
            tell(f"{size}: round {number + 1} of {rounds}")
            for worker, own in zip(workers, times, strict=True):
                own.append(worker.round())
    for candidate, backend, own in zip(candidates, backends, times, strict=True):
        yield _row(candidate, backend, own)


def _row(candidate: Candidate, backend: str, rounds: list[Times]) -> dict[str, Any]:
    median, batch = medians(rounds), batch_of(candidate.size)
    row: dict[str, Any] = {
        "size": candidate.size,
        "precision": candidate.precision,
        "impl": candidate.impl,
        "strategy": candidate.strategy,
        "batch": batch,
        "backend": backend,
    }
    row |= {f"{name}_s": seconds for name, seconds in median.items()}
    row |= {"train_img_per_s": batch / median["train"], "sample_img_per_s": batch / median["sample"]}
    if candidate.floor:
        # Each round's own share: step and floor of a round met the same machine.
        shares = [
            {
                f"{what}_{floor}_share": times[floor if what == "train" else f"{floor}_{what}"] / times[what]
                for what in ("train", "sample")
                for floor in ("floor", "own_floor")
            }
            for times in rounds
        ]
        row |= medians(shares)
    return row
