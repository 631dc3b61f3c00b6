"""Reads a dataset in batches for `fit`. The batch of step k is a function of the seed and k only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import EncoderInputs
from kgen.data.conditions import Reader
from kgen.data.latents import LatentCache, image_of
from kgen.data.rows import training_rows

Batch = dict[str, Any]

MEMORY_LIMIT = 2**30
"""Largest total size of decoded images, in bytes, that is kept in memory."""


class Loader:
    """Reads a split of a dataset in batches.

    Args:
        dataset, split: The dataset and the split.
        encoder: The encoder, whose fields are read, such as the captions; None: no fields are read.
        batch_size: Size of the global batch, summed over all shards.
        read: Function that turns inputs of the encoder into "tokens" or a "condition" (see `condition_reader`); by
            default, the encoder's `tokenize`.
        latents: Cached latents of the images, in place of the images.
        flip: Whether to add a mirror image of every image; `latents` must contain both.
        shard, shards: Number of the shard, and of all shards. Each worker reads one equal part of every batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        encoder: Encoder | None,
        *,
        batch_size: int,
        split: Split = "train",
        read: Reader | None = None,
        latents: LatentCache | None = None,
        flip: bool = False,
        shard: int = 0,
        shards: int = 1,
    ) -> None:
        if batch_size % shards:
            raise ValueError(f"batch_size {batch_size} must be a multiple of the {shards} workers")
        self.batch_size = batch_size
        self.read = read or (lambda inputs: {"tokens": encoder.tokenize(inputs)} if encoder else {})
        self.latents = latents
        self.flip = flip
        self.shard, self.shards = shard, shards
        self.shares = [(count * (2 if flip else 1), share) for count, share in dataset.shares(split)]
        self.count = len(dataset.captions(split)) * (2 if flip else 1)
        self.image = _keep(dataset, split, self.count, flip)
        self.inputs = encoder and EncoderInputs(dataset, split, encoder.fields, flip=flip, image=self.image)

    def training(self, *, start: int = 0, seed: int = 0) -> grain.IterDataset:
        """Batches from step `start` on. There are endless passes over the split, each in a new order."""
        rows = training_rows(self.count, seed, self.shares)
        rows = rows[self.shard :: self.shards].batch(self.batch_size // self.shards)
        return self._read(rows[start:])

    def __len__(self) -> int:
        """Number of batches in one pass."""
        return -(-self.count // self.batch_size)

    def once(self, devices: int = 1) -> grain.IterDataset:
        """One pass in order, in batches of one size, with a "weight" (B,) per example: 1, or 0 for padding.

        Args:
            devices: Number of devices that share a batch. The last batch, or the only one of a small split, is padded
                with earlier rows, so that it can be divided among them.
        """
        size = min(self.batch_size, -(-self.count // devices) * devices)
        rows = grain.MapDataset.range(-(-self.count // size) * size).batch(size).map(self._weighted)
        return self._threads(rows)

    def _weighted(self, rows: np.ndarray) -> Batch:
        return {**self._batch(rows % self.count), "weight": (rows < self.count).astype(np.float32)}

    def _read(self, rows: grain.MapDataset) -> grain.IterDataset:
        return self._threads(rows.map(self._batch))

    @staticmethod
    def _threads(batches: grain.MapDataset) -> grain.IterDataset:
        return batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))

    def _batch(self, rows: np.ndarray) -> Batch:
        batch: Batch = {}
        if self.latents is not None:
            batch["latent"] = self.latents.lookup(rows)  # (B, *latent_space.shape)
        else:
            batch["image"] = np.stack([self.image(int(row)) for row in rows])  # (B, H, W, C)
        if self.inputs is None:
            return batch
        return {**batch, **self.read([self.inputs[int(row)] for row in rows])}


def _keep(dataset: Dataset, split: Split, count: int, flip: bool) -> Callable[[int], np.ndarray]:
    """Returns a function that reads images by row, and keeps them in memory if all of them fit."""
    shape = dataset.image_space.shape
    if count * int(np.prod(shape)) > MEMORY_LIMIT:
        return lambda row: image_of(dataset.image, split, row, flip)
    kept: dict[int, np.ndarray] = {}

    def image(row: int) -> np.ndarray:
        if row not in kept:
            kept[row] = image_of(dataset.image, split, row, flip)
        return kept[row]

    return image
