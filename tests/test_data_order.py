"""The order of images: each epoch a permutation, and the prefetcher gives what direct reads give."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import small_data
import torch
from small_data import CLASSES, N, make_folder, names, pixels

from noisegan.core.data import Prefetcher, batch_indices, dataset, open_dataset
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError

cache = small_data.cache
lazy = small_data.lazy


def test_each_epoch_is_a_permutation() -> None:
    stream, n = Streams(3)["data"], 23
    order = batch_indices(stream, n, 0, 5 * n)
    epochs = [order[e * n : (e + 1) * n] for e in range(5)]
    assert all(sorted(epoch.tolist()) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 5
    assert all(torch.equal(epoch, stream.permutation(n, step=e)) for e, epoch in enumerate(epochs))
    for batch in (1, 7, 23, 50):
        parts = [batch_indices(Streams(3)["data"], n, start, batch) for start in range(0, 5 * n, batch)]
        assert torch.equal(torch.cat(parts)[: 5 * n], order)
    assert not torch.equal(batch_indices(Streams(4)["data"], n, 0, n), epochs[0])
    assert not torch.equal(batch_indices(Streams(3)["eval/data"], n, 0, n), epochs[0])
    assert batch_indices(stream, n, 5, 0).shape == (0,)
    first = batch_indices(stream, n, 0, n)
    first.zero_()
    assert torch.equal(batch_indices(stream, n, 0, n), epochs[0])  # what is given is a copy
    for n, start, count in [(0, 0, 1), (1, -1, 1), (1, 0, -1)]:
        with pytest.raises(ValueError, match="batch_indices needs n >= 1"):
            batch_indices(stream, n, start, count)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("memory", [2**30, 0])
def test_prefetcher_equals_direct_reads(
    tmp_path: Path, workers: int, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", memory)
    data = open_dataset(make_folder(tmp_path / "f", pixels(3), CLASSES), mirror=True, cond=True)
    stream = Streams(1)["data"]
    with Prefetcher(data, stream, 7, 5, workers=workers, ahead=3) as batches:
        for step in range(12):
            images, labels, indices = next(batches)
            assert torch.equal(indices, batch_indices(stream, len(data), 7 + 5 * step, 5))
            assert torch.equal(images, data.images(indices))
            assert torch.equal(labels, data.labels(indices))
    with Prefetcher(data, stream, 4, 4, stride=8, workers=workers) as second_rank:
        for step in range(4):
            assert torch.equal(next(second_rank).indices, batch_indices(stream, len(data), 4 + 8 * step, 4))


def test_prefetcher_surfaces_exceptions_and_closes(tmp_path: Path, lazy: None) -> None:
    folder = make_folder(tmp_path / "f", pixels(3))
    data, stream = open_dataset(folder), Streams(1)["data"]
    bad = int(batch_indices(stream, N, 9, 1))
    (folder / names()[bad]).write_bytes(b"hello")
    with Prefetcher(data, stream, 0, 4) as batches:
        next(batches)
        next(batches)
        for _ in range(2):
            with pytest.raises(NoiseganError, match=f"{names()[bad]} in .* cannot be read"):
                next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("noisegan-prefetch")]
    with pytest.raises(RuntimeError, match="is closed"):
        next(batches)
    with pytest.raises(ValueError, match="Prefetcher needs"):
        Prefetcher(data, stream, 0, 0)
