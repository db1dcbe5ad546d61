"""Images for training and evaluation: opened with explicit choices, fingerprinted, shown in a reproducible order.

dataset = open_dataset("photos.zip", resolution=64, resize="lanczos", crop="center", mirror=True)
with Prefetcher(dataset, Streams(seed)["data"], start=0, batch=16) as batches:
    images, labels, indices = next(batches)
"""

from __future__ import annotations

from noisegan.core.data.builtin import BUILT_IN
from noisegan.core.data.dataset import ImageDataset, open_dataset
from noisegan.core.data.fit import CROPS, RESIZES, RESOLUTIONS
from noisegan.core.data.order import Batch, Prefetcher, batch_indices

__all__ = [
    "BUILT_IN",
    "CROPS",
    "RESIZES",
    "RESOLUTIONS",
    "Batch",
    "ImageDataset",
    "Prefetcher",
    "batch_indices",
    "open_dataset",
]
