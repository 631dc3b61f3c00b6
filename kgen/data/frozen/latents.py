"""A cache on disk of a trained decoder's latents. Each image is encoded once for this and all later runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.decoder import Decoder
from kgen.data.cache import hash_of, open_or_write
from kgen.data.frozen.encoding import (
    Encoding,
    Images,
    described,
    plain,
    read_problems,
    unpacked,
    write_problems,
)
from kgen.data.frozen.filling import Filling, origin, provenance
from kgen.data.frozen.stored import StoredRows, create_rows
from kgen.data.reading.workers import Workers
from kgen.pixels import floats

FORMAT = 4
FILL = 64
"""Number of images that are read at once if all are encoded."""


class LatentCache:
    """Latents of one shape by row, which stay on disk. Several threads and processes can use a cache.

    A missing latent is computed when it is first read. Every latent is read from the disk, also right after it was
    computed. A training therefore does not depend on what was in the cache when it began.

    Args:
        folder: The folder that `cached_latents` made.
        encoding: Computes latents that are missing; None: no latent is missing.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder is missing or damaged.
    """

    def __init__(self, folder: Path, encoding: Encoding | None = None) -> None:
        self.folder, self.encoding = folder, encoding
        self.stored = StoredRows(folder)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def written(self) -> int:
        return int(np.count_nonzero(self.stored.marks()))

    def lookup(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The latents (B, *latent_space.shape) of B rows, float32 or int32, in the numbering of `cached_latents`.

        The dataset then knows which of these images are damaged.

        Raises:
            DataError: a latent is missing or damaged, and cannot be computed now; an image is damaged, and the dataset
                does not skip it; or the disk is full.
        """
        arrays = self.stored.read(rows, self.encoding)
        if self.encoding is not None:
            self.encoding.learn_problems()
        return unpacked(arrays)

    def fill(self) -> None:
        for rows in self.stored.missing(FILL):
            self.lookup(rows)


class LatentsByShape:
    """Latents of images that differ in shape: a cache for each shape.

    Args:
        caches: The cache of each shape. Its rows are those of the images of that shape, in the same order.
        rows: The indices of the examples of each shape.
        copies: Number of rows of each example: its views and their mirror images.
    """

    def __init__(self, caches: Sequence[LatentCache], rows: Mapping[tuple[int, int], np.ndarray], copies: int) -> None:
        self.caches, self.copies = caches, copies
        count = sum(map(len, rows.values()))
        self._shape, self._place = np.empty(count, np.int16), np.empty(count, np.int64)
        for number, own in enumerate(rows.values()):
            self._shape[own] = number
            self._place[own] = np.arange(len(own))

    def __len__(self) -> int:
        return sum(map(len, self.caches))

    @property
    def written(self) -> int:
        return sum(cache.written for cache in self.caches)

    def lookup(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The latents of B rows of images of one shape; see `LatentCache.lookup`."""
        examples, copies = np.divmod(np.asarray(rows, np.int64), self.copies)
        return self.caches[int(self._shape[examples[0]])].lookup(self._place[examples] * self.copies + copies)

    def fill(self) -> None:
        for cache in self.caches:
            cache.fill()


Latents = LatentCache | LatentsByShape
"""Latents by row, in the numbering of `cached_latents`."""


def cached_latents(
    decoder: Decoder,
    dataset: Dataset,
    split: Split,
    cache_dir: str | Path,
    *,
    flip: bool = False,
    views: int = 1,
    filling: Filling | None = None,
    workers: Callable[[], Workers | None] = lambda: None,
) -> Latents:
    """Opens the cache of the latents of every image of a split; if its images differ in shape, a cache for each shape.

    A cache stores floats as float16, with an error of at most 0.05%. If one is 2^15 or larger, all numbers of its
    latent are divided by a power of two.

    The name of a cache is a hash of the decoder's class, configuration, precision, assets and weights, of the backend,
    and of the dataset's options and fingerprint. When a cache is opened, its first and last latents are computed again
    and compared, which detects a change of the decoder's code.

    Args:
        decoder: A decoder whose weights do not change.
        dataset: The dataset.
        split: The split to encode.
        cache_dir: The folder of the cache, which is created if needed.
        flip: Whether to encode also the mirror image of every image: row 2 i is image i, row 2 i + 1 its mirror image.
        views: Number of views to encode, which is `Dataset.views`; `image_of` numbers them. 1: `Dataset.image` is
            encoded.
        filling: Decides when the latents that are missing are computed; None: now.
        workers: Returns the processes that read the images, and is called if a latent is missing; None: threads of this
            process read them.

    Raises:
        RunError: `cache_dir` cannot be written.
        SpaceError: the decoder does not support the shape of some images.
        DataError: an image is damaged, and the dataset does not skip it; or the disk is full.
    """
    filling, made_by = filling or Filling(training=False), provenance(decoder)

    def opened(resized: Decoder, examples: np.ndarray | None = None) -> LatentCache:
        images = Images(dataset, split, flip, views, resized.image_space.shape, examples)
        cache = _opened(resized, images, Path(cache_dir), made_by)
        if cache.written < len(cache) or not filling.training:
            images.workers = workers()
            program = filling.program(decoder, lambda x: resized.encode(floats(x)))
            cache.encoding = Encoding(cache.folder, images, program)
        return cache

    found: Latents
    if groups := dataset.rows_by_shape(split):
        shapes = [(*size, dataset.image_space.shape[-1]) for size in groups]
        decoders = [decoder.resized(replace(dataset.image_space, shape=shape)) for shape in shapes]
        caches = [opened(*each) for each in zip(decoders, map(np.asarray, groups.values()), strict=True)]
        found = LatentsByShape(caches, groups, (2 if flip else 1) * views)
    else:
        found = opened(decoder)
    filling.begin(found, decoder, f"latents of the split '{split}'")
    return found


def _opened(decoder: Decoder, images: Images, cache_dir: Path, made_by: Mapping[str, str]) -> LatentCache:
    """Opens the cache of the images of one shape. The dataset then knows which of these images are damaged."""
    cache = open_or_write(
        cache_dir,
        f"latents-{_key(decoder, made_by, images)}",
        open_=lambda folder: _open(folder, decoder, images),
        write=lambda folder: _create(folder, decoder, images),
    )
    for problem in read_problems(cache.folder):
        images.dataset.report(problem)
    return cache


def _key(decoder: Decoder, made_by: Mapping[str, str], images: Images) -> str:
    everything = {
        "format": FORMAT,
        **made_by,
        **origin(images.dataset),
        "image_shape": decoder.image_space.shape,
        "split": images.split,
        "flip": images.flip,
        "views": images.views,
    }
    return hash_of(everything)


def _open(folder: Path, decoder: Decoder, images: Images) -> LatentCache | None:
    """Opens the cache in `folder`. Returns None if it is damaged, or if the decoder now computes other latents."""
    try:
        cache = LatentCache(folder)
        read_problems(folder)
        ends = cache.stored.ends()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(cache) != len(images):
        return None
    if not ends:
        return cache
    made = plain(decoder.encode(floats(keras.ops.convert_to_tensor(images.read(ends)))))
    return cache if np.allclose(cache.lookup(ends), made, rtol=1e-2, atol=1e-2) else None


def _create(folder: Path, decoder: Decoder, images: Images) -> None:
    create_rows(folder, len(images), described(decoder.latent_space))
    write_problems(folder, images.dataset.problems())
