"""Dataset -> batches for `fit`, addressed by step: what step k sees is a function of the seed and k alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from kgen.components.dataset import Dataset, Split
from kgen.components.encoder import Encoder
from kgen.data.conditions import ConditionCache

Batch = dict[str, Any]

MEMORY_LIMIT = 2**30
"""Bytes of decoded pictures that are kept in memory."""


ENDLESS = 2**32
"""Passes over the data in "endless" training: their length must still fit into an index."""


class Loader:
    """Reads a split of a dataset in batches.

    Args:
        dataset, split: What to read.
        encoder: Tokenises the captions.
        batch_size: Of the global batch, over all shards.
        conditions: What a frozen encoder made of the captions; replaces the tokens.
        shard, shards: Which equal part of every batch to read, under several workers.
    """

    def __init__(
        self,
        dataset: Dataset,
        encoder: Encoder,
        *,
        batch_size: int,
        split: Split = "train",
        conditions: ConditionCache | None = None,
        shard: int = 0,
        shards: int = 1,
    ) -> None:
        if batch_size % shards:
            raise ValueError(f"batch_size {batch_size} must be a multiple of the {shards} workers")
        self.captions = dataset.captions(split)
        self.encoder = encoder
        self.batch_size = batch_size
        self.conditions = conditions
        self.shard, self.shards = shard, shards
        self.picture = _keep(dataset, split, len(self.captions))

    def training(self, *, start: int = 0, seed: int = 0) -> grain.IterDataset:
        """Batches, from step `start` on, of endless passes over the split, each in a new order."""
        rows = grain.MapDataset.range(len(self.captions)).seed(seed).shuffle().repeat(ENDLESS)
        rows = rows[self.shard :: self.shards].batch(self.batch_size // self.shards)
        return self._read(rows[start:])

    def __len__(self) -> int:
        """Batches in one pass."""
        return -(-len(self.captions) // self.batch_size)

    def once(self) -> grain.IterDataset:
        """One pass in order; the last batch may be smaller."""
        rows = grain.MapDataset.range(len(self.captions))
        return self._read(rows[self.shard :: self.shards].batch(self.batch_size // self.shards))

    def _read(self, rows: grain.MapDataset) -> grain.IterDataset:
        return rows.map(self._batch).to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))

    def _batch(self, rows: np.ndarray) -> Batch:
        texts = [self.captions[row] for row in rows]
        batch: Batch = {"image": np.stack([self.picture(int(row)) for row in rows])}  # (B, H, W, C)
        if self.conditions is not None:
            batch["condition"] = self.conditions.lookup(texts)
        else:
            batch["tokens"] = self.encoder.tokenize(texts)
        return batch


def _keep(dataset: Dataset, split: Split, count: int) -> Callable[[int], np.ndarray]:
    """Reads pictures; keeps each in memory once read, if all of them fit."""
    shape = dataset.image_space.shape
    if count * int(np.prod(shape)) > MEMORY_LIMIT:
        return lambda row: dataset.image(split, row)
    kept: dict[int, np.ndarray] = {}

    def picture(row: int) -> np.ndarray:
        if row not in kept:
            kept[row] = dataset.image(split, row)
        return kept[row]

    return picture
