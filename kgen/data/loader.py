"""Reads a dataset in batches for `fit`. The batch of step k is a function of the seed and k only."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import EncoderInputs, Visits
from kgen.data.frozen.conditions import Reader
from kgen.data.frozen.latents import Latents
from kgen.data.order import ENDLESS, BatchOrder, random_numbers
from kgen.data.reading.meter import Meter
from kgen.data.reading.workers import Workers, image_of

Batch = dict[str, Any]

MEMORY_LIMIT = 2**30
"""Largest total size of decoded images, in bytes, that is kept in memory."""


class Loader:
    """Reads a split of a dataset in batches. All images of a batch have one shape (`Dataset.rows_by_shape`).

    Args:
        dataset, split: The dataset and the split.
        encoder: The encoder, whose fields are read, such as the captions; None: no fields are read.
        batch_size: Size of the global batch, summed over all shards.
        read: Function that turns inputs of the encoder into "tokens" or a "condition" (see `Reader`); by default, the
            encoder's `tokenize`.
        latents: Cached latents of the images, in place of the images. In training, they must contain every view.
        flip: Whether to add a mirror image of every image; `latents` must contain both.
        shard, shards: Number of the shard, and of all shards. Each process of a distributed training reads one equal
            part of every batch.
        workers: Processes that read the images; None: threads of this process do. The batches do not depend on it.

    Attributes:
        meter: Measures how fast batches are read.
        several_shapes: Whether the shape of the images differs between batches.
    """

    def __init__(
        self,
        dataset: Dataset,
        encoder: Encoder | None,
        *,
        batch_size: int,
        split: Split = "train",
        read: Reader | None = None,
        latents: Latents | None = None,
        flip: bool = False,
        shard: int = 0,
        shards: int = 1,
        workers: Workers | None = None,
    ) -> None:
        if batch_size % shards:
            raise ValueError(f"batch_size {batch_size} must be a multiple of the {shards} processes")
        self.batch_size, self.split = batch_size, split
        self.read = read or (lambda inputs, visits: {"tokens": encoder.tokenize(list(inputs))} if encoder else {})
        self.latents = latents
        self.flip = flip
        self.shard, self.shards = shard, shards
        self.shares = [(count * (2 if flip else 1), share) for count, share in dataset.shares(split)]
        self.count = len(dataset.captions(split)) * (2 if flip else 1)
        self.meter = Meter()
        self.workers = workers
        self.views = dataset.views if split == "train" else 1
        self.draws = self.views > 1 or (split == "train" and (dataset.draw_captions or dataset.shuffle_tags))
        copies = np.arange(2 if flip else 1)
        self.groups = {
            shape: (np.asarray(rows)[:, None] * len(copies) + copies).reshape(-1)
            for shape, rows in dataset.rows_by_shape(split).items()
        }
        self.several_shapes = len(self.groups) > 1
        self.images = _Images(dataset, split, flip, self.views, workers, self.groups)
        self.inputs = encoder and EncoderInputs(dataset, split, encoder.fields, flip=flip)

    def training(self, *, start: int = 0, seed: int = 0) -> grain.IterDataset:
        """Batches from step `start` on, in endless passes over the split. Each pass has a new order (`BatchOrder`).

        If an example has several views or captions, one is picked at random each time, and so is the order of tags.
        These choices, too, depend only on the seed and the step.
        """
        order = BatchOrder(self.count, self.batch_size, seed, self.shares, list(self.groups.values()))
        places = self._part(0, self.batch_size)

        def batch(step: int) -> Batch:
            rows = order(step, places)
            positions = [step * self.batch_size + place for place in places]
            return self._batch(rows, random_numbers(seed, positions)) if self.draws else self._batch(rows)

        return self._threads(grain.MapDataset.range(start, ENDLESS).map(batch))

    def __len__(self) -> int:
        """Number of batches of `once`."""
        return sum(-(-len(rows) // self.batch_size) for rows in self._grouped())

    def once(self, devices: int = 1) -> grain.IterDataset:
        """One pass in order, in batches of one size, with a "weight" (B,) per example: 1, or 0 for padding.

        Args:
            devices: Number of devices that share a batch. The last batch of each shape, or its only one, is padded with
                earlier rows, so that it can be divided among them. A process that reads a shard gets its part of each.
        """
        batches: list[tuple[Sequence[int] | np.ndarray, int, int]] = []  # the rows of a shape, the first one, the size
        for rows in self._grouped():
            size = min(self.batch_size, -(-len(rows) // devices) * devices)
            batches += [(rows, first, size) for first in range(0, len(rows), size)]

        def weighted(number: int) -> Batch:
            rows, first, size = batches[number]
            places = np.asarray(self._part(first, size))
            chosen = [int(rows[place]) for place in (places % len(rows)).tolist()]
            return {**self._batch(chosen), "weight": (places < len(rows)).astype(np.float32)}

        return self._threads(grain.MapDataset.range(len(batches)).map(weighted))

    def _part(self, first: int, size: int) -> range:
        """The places of this process in a batch of `size` rows that begins at `first`: one after the other, as JAX
        puts the batch together again."""
        share = size // self.shards
        return range(first + self.shard * share, first + (self.shard + 1) * share)

    def _grouped(self) -> list[Sequence[int] | np.ndarray]:
        """The rows of each shape."""
        return [*self.groups.values()] or [range(self.count)]

    def close(self) -> None:
        """Stops the workers. Nothing can be read after that."""
        if self.workers is not None:
            self.workers.close()

    def _threads(self, batches: grain.MapDataset) -> grain.IterDataset:
        """Reads several batches at the same time: two, or as many as keep all workers busy."""
        busy = 1 if self.workers is None else 2 * self.workers.count * self.shards // self.batch_size
        threads = min(max(2, busy), 16)
        return batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(8, threads)))

    def _batch(self, rows: Sequence[int], draws: np.ndarray | None = None) -> Batch:
        """Makes a batch of B rows. The random numbers `draws` (B,) pick views and captions; None: the first ones."""
        views: Sequence[int] = [0] * len(rows)
        captions: Sequence[int | None] = [None] * len(rows)
        if draws is not None:
            captions, views = (numbers.tolist() for numbers in np.divmod(draws, self.views))
        numbers = [row * self.views + view for row, view in zip(rows, views, strict=True)]
        with self.meter.reading(len(rows)):
            images = functools.cache(lambda: self.images.read(numbers))  # (B, H, W, C)
            batch: Batch = {}
            if self.latents is not None:
                batch["latent"] = self.latents.lookup(numbers)  # (B, h, w, channels), or tokens (B, h, w)
            else:
                batch["image"] = images()
            if self.inputs is None:
                return batch
            visits = Visits(self.split, rows, captions, views)
            single = [functools.partial(_item, images, place) for place in range(len(rows))]
            return {**batch, **self.read(self.inputs.visited(visits, single), visits)}


def _item(read: Callable[[], np.ndarray], place: int) -> np.ndarray:
    """One of the images that a function reads together."""
    image: np.ndarray = read()[place]
    return image


class _Images:
    """Reads images by their numbers (see `image_of`), and keeps them in memory if all of them fit."""

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        flip: bool,
        views: int,
        workers: Workers | None,
        groups: Mapping[tuple[int, int], np.ndarray],
    ) -> None:
        self.dataset, self.split, self.flip, self.views, self.workers = dataset, split, flip, views, workers
        self.shapes = [*groups]
        self.shape_of = np.empty(sum(map(len, groups.values())), np.int16)  # the number of the shape of each row
        for number, rows in enumerate(groups.values()):
            self.shape_of[rows] = number
        self.keep = fit_into_memory(dataset, split, flip)
        self.kept: dict[int, np.ndarray] = {}

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """Images of one shape, uint8 (B, H, W, C)."""
        missing = [number for number in dict.fromkeys(numbers) if number not in self.kept]
        found = dict(zip(missing, images := self._read(missing), strict=True))
        if self.keep:
            self.kept.update(found)
        if len(missing) == len(numbers):
            return images
        return np.stack([self.kept[number] if number in self.kept else found[number] for number in numbers])

    def _read(self, numbers: Sequence[int]) -> np.ndarray:
        if self.workers is not None and numbers:
            return self.workers.read(self.split, numbers, self.flip, self.views, self._shape(numbers[0]))
        images = [image_of(self.dataset, self.split, number, self.flip, self.views) for number in numbers]
        return np.stack(images) if images else np.empty(0, np.uint8)

    def _shape(self, number: int) -> tuple[int, ...] | None:
        """The shape (H, W, C) of an image; None if all images have that of the dataset."""
        if not self.shapes:
            return None
        return (*self.shapes[self.shape_of[number // self.views]], self.dataset.image_space.shape[-1])


def fit_into_memory(dataset: Dataset, split: Split, flip: bool = False) -> bool:
    """Whether the decoded images of a split are so few that the loader keeps them in memory."""
    count = len(dataset.captions(split)) * (2 if flip else 1) * (dataset.views if split == "train" else 1)
    return count * int(np.prod(dataset.image_space.shape)) <= MEMORY_LIMIT
