"""What a run reads: its dataset, what frozen parts made of it, and the batches that training sees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kgen.config import ComponentConfig
from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import AllEncoderInputs
from kgen.data.conditions import Reader, condition_reader
from kgen.data.latents import LatentCache, cached_latents
from kgen.data.loader import Loader
from kgen.errors import DataError
from kgen.pipeline.assembly import make_dataset

BATCH = 32
"""Images of a batch that is shown to a decoder."""


def read_dataset(component: ComponentConfig) -> Dataset:
    """The dataset that a configuration names. Raises DataError where it has nothing to train on."""
    dataset = make_dataset(component.choice)
    if not dataset.captions("train"):
        raise DataError(f"dataset '{component.name}' has no images to train on: see its options")
    return dataset


def eval_split(dataset: Dataset) -> Split | None:
    """A split that training does not see: a validation split, else what was held out."""
    splits: tuple[Split, ...] = ("validation", "holdout")
    return next((split for split in splits if dataset.captions(split)), None)


def cache_folder() -> Path:
    """Where caches lie: $KGEN_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KGEN_CACHE") or Path(base) / "kgen")


def latents_of(decoder: Decoder, dataset: Dataset, split: Split) -> np.ndarray:
    """What a trained decoder makes of all images of a split, computed once and kept: (N, *latent_space.shape)."""
    cache = cached_latents(decoder, dataset, split, cache_folder())
    return cache.lookup(range(len(cache)))


@dataclass(frozen=True)
class Inputs:
    """Makes the loaders of one training.

    Args:
        dataset: What to read.
        encoder: Of its captions, or of other fields; None: they are not read.
        decoder: Whose latents training wants instead of images; None: images.
        flip: Whether to show every image mirrored too.
    """

    dataset: Dataset
    encoder: Encoder | None
    decoder: Decoder | None = None
    flip: bool = False

    def reader(self) -> Reader | None:
        """What gives a batch its tokens or conditions; frozen encoders' are computed once for all inputs."""
        if self.encoder is None:
            return None
        inputs = AllEncoderInputs(self.dataset, self.encoder.fields, flip=self.flip)
        return condition_reader(self.encoder, inputs, cache_folder())

    def latents(self, split: Split, flip: bool) -> LatentCache | None:
        """A trained decoder's latents, computed once for all images; None where the latents are the images."""
        if self.decoder is None or self.decoder.lossless:
            return None
        return cached_latents(self.decoder, self.dataset, split, cache_folder(), flip=flip)

    def loader(self, split: Split, batch_size: int, shard: int = 0, shards: int = 1) -> Loader:
        flip = self.flip and split == "train"
        return Loader(
            self.dataset,
            self.encoder,
            batch_size=batch_size,
            split=split,
            read=self.reader(),
            latents=self.latents(split, flip),
            flip=flip,
            shard=shard,
            shards=shards,
        )

    def validation_loader(self, batch_size: int) -> Loader | None:
        """What to measure the loss on while training."""
        split = eval_split(self.dataset)
        return self.loader(split, batch_size) if split else None


class SplitImages:
    """All images of a split, in batches uint8 (B, H, W, C). It can be iterated several times."""

    def __init__(self, dataset: Dataset, split: Split) -> None:
        self.dataset, self.split = dataset, split

    def __iter__(self) -> Iterator[np.ndarray]:
        count = len(self.dataset.captions(self.split))
        for start in range(0, count, BATCH):
            rows = range(start, min(start + BATCH, count))
            yield np.stack([self.dataset.image(self.split, row) for row in rows])
