"""A cache on disk of a trained decoder's latents. Each image is encoded once for this and all later runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from kgen.backend.compiled import Compiled
from kgen.contracts.dataset import Dataset, Problem, Split
from kgen.contracts.decoder import Decoder
from kgen.data.cache import hash_of, open_or_write
from kgen.data.frozen import provenance
from kgen.data.reading.workers import image_of
from kgen.data.stored import read_rows, write_rows
from kgen.errors import DataError
from kgen.pixels import floats
from kgen.storage.files import write_text

FORMAT = 3
BATCH = 64
NAME = "latent"
PROBLEMS = "problems.json"
"""The file that lists the damaged images. The latents of other images take their places."""


class Latents(Protocol):
    """Latents by row, in the numbering of `cached_latents`."""

    def lookup(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The latents (B, h, w, ...) of B rows of images of one shape, float32 or int32."""


class LatentCache:
    """Latents of one shape by row, which stay on disk. Several threads and processes can read a cache.

    Args:
        folder: The folder that `cached_latents` wrote.

    Attributes:
        problems: The damaged images. Other images were encoded in their places.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows = read_rows(folder)[NAME]
        found = json.loads((folder / PROBLEMS).read_text(encoding="utf-8"))
        self.problems = [Problem(where, what) for where, what in found]

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The latents (B, *latent_space.shape) of B rows, float32 or int32, in the numbering of `cached_latents`.

        Raises:
            DataError: a file of the cache is damaged.
        """
        return self._rows[rows]

    def __reduce__(self) -> tuple[type[LatentCache], tuple[Path]]:
        return LatentCache, (self.folder,)


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

    def lookup(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The latents of B rows of images of one shape; see `LatentCache.lookup`."""
        examples, copies = np.divmod(np.asarray(rows, np.int64), self.copies)
        return self.caches[int(self._shape[examples[0]])].lookup(self._place[examples] * self.copies + copies)


def cached_latents(
    decoder: Decoder, dataset: Dataset, split: Split, cache_dir: str | Path, *, flip: bool = False, views: int = 1
) -> LatentCache:
    """Encodes every image of a split whose images have one shape, unless `cache_dir` already contains the latents.

    The cache stores floats as float16, with an error of at most 0.05%; if one is above 65504, it stores float32.

    The name of the cache is a hash of the decoder's class, configuration, precision and weights, of the backend, and of
    the dataset's options and fingerprint. Before a cache is used, its first and last rows are computed again and
    compared, which detects a change of the decoder's code.

    Args:
        decoder: A decoder whose weights do not change.
        dataset: The dataset.
        split: The split to encode.
        cache_dir: The folder of the cache, which is created if needed.
        flip: Whether to encode also the mirror image of every image: row 2 i is image i, row 2 i + 1 its mirror image.
        views: Number of views to encode, which is `Dataset.views`; `image_of` numbers them. 1: `Dataset.image` is
            encoded.

    Raises:
        RunError: `cache_dir` cannot be written.
        DataError: an image is damaged, and the dataset does not skip it.
    """
    return _cached(decoder, provenance(decoder), _Images(dataset, split, flip, views), Path(cache_dir))


def latents_by_shape(
    decoder: Decoder, dataset: Dataset, split: Split, cache_dir: str | Path, *, flip: bool = False, views: int = 1
) -> LatentsByShape:
    """Encodes every image of a split whose images have several shapes (`Dataset.rows_by_shape`).

    There is one cache for each shape; see `cached_latents`.

    Raises:
        SpaceError: the decoder does not support one of the shapes.
    """
    made_by, groups, channels = provenance(decoder), dataset.rows_by_shape(split), dataset.image_space.shape[-1]
    caches = [
        _cached(
            decoder.resized(replace(dataset.image_space, shape=(*shape, channels))),
            made_by,
            _Images(dataset, split, flip, views, np.asarray(rows)),
            Path(cache_dir),
        )
        for shape, rows in groups.items()
    ]
    return LatentsByShape(caches, groups, (2 if flip else 1) * views)


def _cached(decoder: Decoder, made_by: Mapping[str, str], images: _Images, cache_dir: Path) -> LatentCache:
    cache = open_or_write(
        cache_dir,
        f"latents-{_key(decoder, made_by, images)}",
        open_=lambda folder: _open(folder, decoder, images),
        write=lambda folder: _write(folder, decoder, images),
    )
    for problem in cache.problems:
        images.dataset.report(problem)
    return cache


class _Images:
    """The images of a split, or of some of its examples, in the order of the cache's rows.

    Args:
        examples: The indices of the examples; None: all of them.
    """

    def __init__(
        self, dataset: Dataset, split: Split, flip: bool, views: int, examples: np.ndarray | None = None
    ) -> None:
        self.dataset, self.split, self.flip, self.views, self.examples = dataset, split, flip, views, examples
        self.copies = (2 if flip else 1) * views

    def __len__(self) -> int:
        return self.copies * len(self.dataset.captions(self.split) if self.examples is None else self.examples)

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Images uint8 (B, H, W, C)."""
        if self.examples is not None:
            places, copies = np.divmod(np.asarray(rows, np.int64), self.copies)
            rows = (self.examples[places] * self.copies + copies).tolist()
        return np.stack([image_of(self.dataset, self.split, row, self.flip, self.views) for row in rows])


def _key(decoder: Decoder, made_by: Mapping[str, str], images: _Images) -> str:
    dataset = images.dataset
    described = {
        "format": FORMAT,
        **made_by,
        "image_shape": decoder.image_space.shape,
        "dataset": f"{type(dataset).__module__}:{type(dataset).__qualname__}",
        "options": dataset.config,
        "fingerprint": dataset.fingerprint(),
        "split": images.split,
        "flip": images.flip,
        "views": images.views,
    }
    return hash_of(described)


def _open(folder: Path, decoder: Decoder, images: _Images) -> LatentCache | None:
    """Opens the cache in `folder`. Returns None if it is incomplete, or if the decoder now computes other latents."""
    ends = [0, len(images) - 1]
    try:
        cache = LatentCache(folder)
        stored = cache.lookup(ends)
    except (OSError, ValueError, KeyError, IndexError, TypeError, DataError):
        return None
    made = _plain(decoder.encode(floats(keras.ops.convert_to_tensor(images.read(ends)))))
    same = len(cache) == len(images) and np.allclose(stored, made, rtol=1e-2, atol=1e-2)
    return cache if same else None


def _write(folder: Path, decoder: Decoder, images: _Images) -> None:
    try:
        write_rows(folder, len(images), _encoded(decoder, images), "float16")
    except OverflowError:
        write_rows(folder, len(images), _encoded(decoder, images))
    problems = [[problem.where, problem.what] for problem in images.dataset.problems()]
    write_text(folder / PROBLEMS, json.dumps(problems))


def _encoded(decoder: Decoder, images: _Images) -> Iterator[dict[str, np.ndarray]]:
    model = Compiled(lambda batch: decoder.encode(floats(batch)), [decoder])
    for start in range(0, len(images), BATCH):
        rows = list(range(start, min(start + BATCH, len(images))))
        filled = rows + [rows[-1]] * (BATCH - len(rows))  # batches of one shape need only one compiled program
        yield {NAME: _plain(model.predict_on_batch(images.read(filled)))[: len(rows)]}


def _plain(latents: Any) -> np.ndarray:
    """Latents as a NumPy array: float32, or int32 for tokens."""
    array = np.asarray(keras.ops.convert_to_numpy(latents))
    return array.astype(np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32)
