"""The inputs of a run: its dataset, caches of the outputs of frozen parts, and the training batches."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kgen.backend.compiled import Compiled
from kgen.config import ComponentConfig
from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Condition, Encoder
from kgen.contracts.inputs import AllEncoderInputs
from kgen.data.cache import cache_folder
from kgen.data.frozen.conditions import Reader, condition_reader, is_cached
from kgen.data.frozen.filling import Filling
from kgen.data.frozen.latents import Latents, cached_latents
from kgen.data.loader import Loader, fit_into_memory
from kgen.data.reading.workers import Workers, make_workers
from kgen.errors import DataError
from kgen.parts.construction import make_dataset
from kgen.pipeline.loss_model import WEIGHT
from kgen.pipeline.model import Pipeline

BATCH = 32
"""Number of images in a batch for the initialization of a generator or decoder, and the calibration of a decoder."""


def read_dataset(component: ComponentConfig) -> Dataset:
    """Opens the dataset of a configuration; raises DataError if it has no training images."""
    dataset = make_dataset(component.choice)
    if not dataset.captions("train"):
        raise DataError(f"dataset '{component.name}' has no images to train on: see its options")
    return dataset


def eval_split(dataset: Dataset) -> Split | None:
    """A split that is not used in training: "validation" if there is one, else "holdout"."""
    splits: tuple[Split, ...] = ("validation", "holdout")
    return next((split for split in splits if dataset.captions(split)), None)


def changing_fields(dataset: Dataset) -> tuple[str, ...]:
    """The fields that have other values in training than in the dataset, so that their conditions cannot be cached."""
    return ("caption",) if dataset.shuffle_tags else ()


def latents_of(decoder: Decoder, dataset: Dataset, split: Split) -> np.ndarray:
    """A trained decoder's latents of all images of a split, (N, *latent_space.shape), from a cache on disk.

    Raises:
        DataError: the images have several shapes.
    """
    if dataset.rows_by_shape(split):
        raise DataError(
            "latents_of needs images of one shape, but these have several (resize: bucket): use resize: crop"
        )
    cache = cached_latents(decoder, dataset, split, cache_folder())
    return cache.lookup(range(len(cache)))


@dataclass(frozen=True)
class Inputs:
    """Makes the loaders of a training.

    Args:
        dataset: The dataset.
        encoder: The encoder, which reads captions or other fields; None: only images are read.
        decoder: A frozen decoder, whose latents are cached; None: the batches contain images.
        flip: Whether every image is also used mirrored.
        workers: Number of processes that read images (`fit.workers`).
        devices: Number of devices that share every batch of the training.
        log: Receives a line for each cache.
    """

    dataset: Dataset
    encoder: Encoder | None
    decoder: Decoder | None = None
    flip: bool = False
    workers: int | None = None
    devices: int = 1
    log: Callable[[str], None] = lambda line: None

    @property
    def caches_conditions(self) -> bool:
        """Whether conditions are cached that depend on frozen weights of the run."""
        parts = () if self.encoder is None else self.encoder.parts()
        changing = changing_fields(self.dataset)
        return any(is_cached(part, changing) and not part.weights_are_external for part in parts)

    @functools.cached_property
    def filling(self) -> Filling:
        """Decides when the caches are filled."""
        return Filling(self.log, self.devices)

    @functools.cached_property
    def reader(self) -> Reader | None:
        """The function that computes the tokens or conditions of a batch; see `condition_reader`."""
        if self.encoder is None:
            return None
        inputs = AllEncoderInputs(self.dataset, self.encoder.fields, flip=self.flip)
        changing = changing_fields(self.dataset)
        return condition_reader(self.encoder, inputs, cache_folder(), changing=changing, filling=self.filling)

    @functools.cached_property
    def image_workers(self) -> Workers | None:
        """The processes that read images for all loaders; None if threads do.

        Raises:
            DataError: `workers` is given, and the dataset cannot be sent to another process.
        """
        if self.workers is None and fit_into_memory(self.dataset, "train", self.flip):
            return None
        return make_workers(self.dataset, self.workers)

    def latents(self, split: Split, flip: bool) -> Latents | None:
        """A trained decoder's latents for all images, from a cache on disk; None if the latents are the images."""
        if self.decoder is None or self.decoder.lossless:
            return None
        return cached_latents(
            self.decoder,
            self.dataset,
            split,
            cache_folder(),
            flip=flip,
            views=self.dataset.views if split == "train" else 1,
            filling=self.filling,
            workers=lambda: self.image_workers,
        )

    def loader(self, split: Split, batch_size: int, shard: int = 0, shards: int = 1) -> Loader:
        flip = self.flip and split == "train"
        latents = self.latents(split, flip)
        needs_images = latents is None or latents.written < len(latents)
        encodes_images = self.encoder is not None and "image" in self.encoder.fields
        return Loader(
            self.dataset,
            self.encoder,
            batch_size=batch_size,
            split=split,
            read=self.reader,
            latents=latents,
            flip=flip,
            shard=shard,
            shards=shards,
            workers=self.image_workers if needs_images or encodes_images or self.workers is not None else None,
        )

    def validation_loader(self, batch_size: int, shard: int = 0, shards: int = 1) -> Loader | None:
        """The loader for the validation loss; None if there is no such split."""
        split = eval_split(self.dataset)
        return self.loader(split, batch_size, shard, shards) if split else None


class TrainingLatents:
    """All training latents, in batches (B, *latent_space.shape), each with its conditions, as arrays.

    They can be iterated several times.

    Args:
        pipeline: The pipeline, whose encoder and decoder are used as they are.
        inputs: The data.
    """

    def __init__(self, pipeline: Pipeline, inputs: Inputs) -> None:
        self.inputs = inputs
        parts = [pipeline.encoder, pipeline.decoder]
        self.program = Compiled(lambda batch: (pipeline.latents(batch), pipeline.condition(batch)), parts)

    def __iter__(self) -> Iterator[tuple[np.ndarray, Condition]]:
        for batch in self.inputs.loader("train", BATCH).once():
            real = batch.pop(WEIGHT) > 0  # the others fill up the last batch
            yield keras.tree.map_structure(
                lambda array, real=real: np.asarray(array)[real], self.program.predict_on_batch(batch)
            )


class SplitImages:
    """All images of a split, in batches uint8 (B, H, W, C). It can be iterated several times.

    If the images differ in shape, the shapes take turns, and all images of a batch have one shape.
    """

    def __init__(self, dataset: Dataset, split: Split) -> None:
        self.dataset, self.split = dataset, split

    def __iter__(self) -> Iterator[np.ndarray]:
        groups = [rows.tolist() for rows in self.dataset.rows_by_shape(self.split).values()]
        for batches in itertools.zip_longest(*map(_batches, groups or [range(len(self.dataset.captions(self.split)))])):
            for rows in filter(None, batches):
                yield np.stack([self.dataset.image(self.split, row) for row in rows])


def _batches(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
