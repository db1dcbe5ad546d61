"""The endless order of the data, a function of the position in the run alone, and batches made ready ahead of it."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from noisegan.core.data.dataset import ImageDataset
from noisegan.core.rng import Stream


def batch_indices(stream: Stream, n: int, start: int, count: int) -> Tensor:
    """The items at positions `start` .. `start + count - 1` of the run, [count] int64.

    Position p shows item perm_e[p % n], where e = p // n and perm_e = stream.permutation(n, step=e): each epoch shows
    every item once, and the order does not depend on batch size, number of ranks or where a run was resumed.

    Raises:
        ValueError: for n below 1, or a negative start or count.
    """
    if n < 1 or start < 0 or count < 0:
        raise ValueError(f"batch_indices needs n >= 1, start >= 0, count >= 0; got n={n}, start={start}, count={count}")
    parts = []
    while count > 0:
        epoch, offset = divmod(start, n)
        part = _epoch(stream.key, stream.name, n, epoch)[offset : offset + count]
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


@lru_cache(maxsize=4)  # a batch spans two epochs at most times; training and evaluation have an order each
def _epoch(key: tuple[int, int], name: str, n: int, epoch: int) -> Tensor:
    stream = Stream(0, name)
    stream.key = key
    return stream.permutation(n, step=epoch)


class Batch(NamedTuple):
    """Images [N, C, R, R] uint8, labels [N, c_dim] float32 and which items they are, [N] int64; on the CPU."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class Prefetcher:
    """An endless iterator over the batches of a run, made ready ahead by threads.

        with Prefetcher(dataset, streams["data"], start=nimg, batch=16) as batches:
            images, labels, indices = next(batches)

    What it gives depends on the data set, stream, positions and batch alone. Batch k holds the positions from
    `start + k * stride`; the stride is `batch` unless given (rank r of R: start + r * batch, stride R * batch).
    An exception of a worker is raised by `next` at the batch where it happened, and again after it.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        stream: Stream,
        start: int,
        batch: int,
        *,
        stride: int | None = None,
        workers: int = 2,
        ahead: int = 4,
    ) -> None:
        if start < 0 or batch < 1 or workers < 0 or ahead < 1:
            raise ValueError(
                "Prefetcher needs start, workers >= 0 and batch, ahead >= 1; "
                f"got start={start}, batch={batch}, workers={workers}, ahead={ahead}"
            )
        self._dataset, self._stream, self._batch = dataset, stream, batch
        self._position, self._stride = start, batch if stride is None else stride
        self._pool = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="noisegan-prefetch")  # 0: one
        self._ready: deque[Future[Batch]] = deque()
        self._closed = False
        for _ in range(ahead):
            self._order_one()

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Batch:
        """The next batch, waiting for it if need be."""
        if self._closed:
            raise RuntimeError("the Prefetcher is closed")
        batch = self._ready[0].result()  # stays first when it raises
        self._ready.popleft()
        self._order_one()
        return batch

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the batches made ready and wait for the threads to end; may be called twice."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._ready.clear()

    def _order_one(self) -> None:
        self._ready.append(self._pool.submit(self._make, self._position))
        self._position += self._stride

    def _make(self, position: int) -> Batch:
        indices = batch_indices(self._stream, len(self._dataset), position, self._batch)
        return Batch(self._dataset.images(indices), self._dataset.labels(indices), indices)
