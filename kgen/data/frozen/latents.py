"""A cache on disk of a trained decoder's latents. Each image is encoded once for this and all later runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from kgen.contracts.dataset import Dataset, Problem, Split
from kgen.contracts.decoder import Decoder
from kgen.data.cache import hash_of, open_or_write
from kgen.data.frozen import Filling, provenance
from kgen.data.reading.workers import Workers, image_of
from kgen.data.stored import Arrays, StoredRows, create_rows
from kgen.errors import DataError, RunError
from kgen.pixels import floats
from kgen.spaces import Space
from kgen.storage.files import locked_folder, write_text

FORMAT = 4
BATCH = 16
"""Number of images that are encoded at once. A single program encodes all images, so that a latent does not depend on
the size of the batch that first needs it."""

FILL = 64
"""Number of images that are read at once if all are encoded."""

NAME = "latent"
EXPONENT = "exponent"
"""The array of exponents, by which float16 can store large numbers: a latent is what is stored, times 2^exponent."""

MAX_EXPONENT = 15
"""All numbers below 2^15 have room in float16, also after rounding."""

PROBLEMS = "problems.json"
"""The file that lists the damaged images. The latents of other images take their places."""


class Latents(Protocol):
    """Latents by row, in the numbering of `cached_latents`."""

    @property
    def written(self) -> int:
        """Number of latents that are in the cache."""

    def __len__(self) -> int:
        """Number of all latents."""

    def lookup(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The latents (B, h, w, ...) of B rows of images of one shape, float32 or int32."""

    def fill(self) -> None:
        """Computes all latents that are missing."""


class LatentCache:
    """Latents of one shape by row, which stay on disk. Several threads and processes can use a cache.

    A missing latent is computed when it is first read. Every latent is read from the disk, also right after it was
    computed, so that a training does not depend on what was in the cache when it began.

    Args:
        folder: The folder that `cached_latents` made.
        encoding: Computes latents that are missing; None: no latent is missing.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder is missing or damaged.
    """

    def __init__(self, folder: Path, encoding: _Encoding | None = None) -> None:
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
        if EXPONENT not in arrays:
            return arrays[NAME]
        return _times_powers(arrays[NAME], arrays[EXPONENT])

    def fill(self) -> None:
        missing = np.flatnonzero(self.stored.marks() == 0)
        for first in range(0, len(missing), FILL):
            self.lookup(missing[first : first + FILL])

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
) -> LatentCache:
    """Opens the cache of the latents of every image of a split whose images have one shape.

    The cache stores floats as float16, with an error of at most 0.05%. If one is 2^15 or larger, all numbers of its
    latent are divided by a power of two.

    The name of the cache is a hash of the decoder's class, configuration, precision and weights, of the backend, and of
    the dataset's options and fingerprint. When a cache is opened, its first and last latents are computed again and
    compared, which detects a change of the decoder's code.

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
        DataError: an image is damaged, and the dataset does not skip it; or the disk is full.
    """
    filling = filling or Filling(training=False)
    images = _Images(dataset, split, flip, views, decoder.image_space.shape)
    cache = _opened(decoder, images, Path(cache_dir), provenance(decoder), decoder, filling, workers)
    filling.begin(cache, decoder, f"latents of the split '{split}'")
    return cache


def latents_by_shape(
    decoder: Decoder,
    dataset: Dataset,
    split: Split,
    cache_dir: str | Path,
    *,
    flip: bool = False,
    views: int = 1,
    filling: Filling | None = None,
    workers: Callable[[], Workers | None] = lambda: None,
) -> LatentsByShape:
    """Opens the caches of the latents of a split whose images have several shapes (`Dataset.rows_by_shape`).

    There is one cache for each shape; see `cached_latents`.

    Raises:
        SpaceError: the decoder does not support one of the shapes.
    """
    filling = filling or Filling(training=False)
    made_by, groups, channels = provenance(decoder), dataset.rows_by_shape(split), dataset.image_space.shape[-1]
    caches = []
    for size, rows in groups.items():
        shape = (*size, channels)
        images = _Images(dataset, split, flip, views, shape, np.asarray(rows))
        resized = decoder.resized(replace(dataset.image_space, shape=shape))
        caches.append(_opened(resized, images, Path(cache_dir), made_by, decoder, filling, workers))
    found = LatentsByShape(caches, groups, (2 if flip else 1) * views)
    filling.begin(found, decoder, f"latents of the split '{split}'")
    return found


def _opened(
    decoder: Decoder,
    images: _Images,
    cache_dir: Path,
    made_by: Mapping[str, str],
    part: Decoder,
    filling: Filling,
    workers: Callable[[], Workers | None],
) -> LatentCache:
    """Opens the cache of the images of one shape. `decoder` encodes this shape, with the weights of `part`."""
    cache = open_or_write(
        cache_dir,
        f"latents-{_key(decoder, made_by, images)}",
        open_=lambda folder: _open(folder, decoder, images),
        write=lambda folder: _create(folder, decoder.latent_space, images),
    )
    for problem in _read_problems(cache.folder):
        images.dataset.report(problem)
    if cache.written < len(cache) or not filling.training:
        images.workers = workers()
        cache.encoding = _Encoding(cache.folder, images, filling.program(part, lambda x: decoder.encode(floats(x))))
    return cache


class _Images:
    """The images of a split, or of some of its examples, in the order of the cache's rows.

    Args:
        shape: The shape (H, W, C) of the images.
        examples: The indices of the examples; None: all of them.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        flip: bool,
        views: int,
        shape: tuple[int, ...],
        examples: np.ndarray | None = None,
    ) -> None:
        self.dataset, self.split, self.flip, self.views, self.examples = dataset, split, flip, views, examples
        self.shape, self.copies = shape, (2 if flip else 1) * views
        self.workers: Workers | None = None

    def __len__(self) -> int:
        return self.copies * len(self.dataset.captions(self.split) if self.examples is None else self.examples)

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Images uint8 (B, H, W, C)."""
        if self.examples is not None:
            places, copies = np.divmod(np.asarray(rows, np.int64), self.copies)
            rows = (self.examples[places] * self.copies + copies).tolist()
        if self.workers is not None:
            return self.workers.read(self.split, rows, self.flip, self.views, self.shape)
        return np.stack([image_of(self.dataset, self.split, row, self.flip, self.views) for row in rows])


class _Encoding:
    """Computes latents of a cache, and tells the processes that share it which images are damaged.

    Args:
        folder: The folder of the cache.
        images: The images.
        program: The compiled `encode` of `BATCH` images.
    """

    def __init__(self, folder: Path, images: _Images, program: Callable[[np.ndarray], Any]) -> None:
        self.folder, self.images, self.program = folder, images, program
        self._told = set(_read_problems(folder))
        self._changed = _stamp(folder)

    def __call__(self, rows: Sequence[int]) -> Arrays:
        """The arrays of rows, as they are stored."""
        images = self.images.read(rows)
        self._tell_problems()
        parts = []
        for first in range(0, len(rows), BATCH):
            part = images[first : first + BATCH]
            padding = np.repeat(part[-1:], BATCH - len(part), axis=0)  # batches of one size need only one program
            parts.append(_plain(self.program(np.concatenate([part, padding])))[: len(part)])
        latents = np.concatenate(parts)
        return {NAME: latents} if latents.dtype == np.int32 else _scaled(latents)

    def _tell_problems(self) -> None:
        """Writes down the damaged images, before the latents of those that take their places are written."""
        found = set(self.images.dataset.problems())
        if found <= self._told:
            return
        try:
            with locked_folder(self.folder):
                self._told = found | set(_read_problems(self.folder))
                _write_problems(self.folder, self._told)
        except (OSError, ValueError, RunError) as error:
            raise DataError(f"{self.folder / PROBLEMS} cannot be written: {error}") from error

    def learn_problems(self) -> None:
        """Reports the images to the dataset that another process has found damaged."""
        if (now := _stamp(self.folder)) != self._changed:
            for problem in _read_problems(self.folder):
                self.images.dataset.report(problem)
            self._changed = now


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
    """Opens the cache in `folder`. Returns None if it is damaged, or if the decoder now computes other latents."""
    try:
        cache = LatentCache(folder)
        _read_problems(folder)
        ends = cache.stored.ends()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(cache) != len(images):
        return None
    if not ends:
        return cache
    made = _plain(decoder.encode(floats(keras.ops.convert_to_tensor(images.read(ends)))))
    return cache if np.allclose(cache.lookup(ends), made, rtol=1e-2, atol=1e-2) else None


def _create(folder: Path, space: Space, images: _Images) -> None:
    arrays: dict[str, tuple[Any, Sequence[int]]] = {NAME: ("int32", space.shape)}
    if space.kind == "continuous":
        arrays = {NAME: ("float16", space.shape), EXPONENT: ("int8", ())}
    create_rows(folder, len(images), arrays)
    _write_problems(folder, images.dataset.problems())


def _scaled(latents: np.ndarray) -> Arrays:
    """Latents (B, ...) as float16, and their exponents (B,)."""
    finite = np.where(np.isfinite(latents), np.abs(latents), 0.0).reshape(len(latents), -1)
    exponents = np.maximum(np.frexp(finite.max(1))[1] - MAX_EXPONENT, 0)
    return {NAME: _times_powers(latents, -exponents).astype(np.float16), EXPONENT: exponents.astype(np.int8)}


def _times_powers(latents: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Latents (B, ...) times 2^exponent (B,)."""
    return np.asarray(np.ldexp(latents, exponents.astype(np.int32).reshape(-1, *[1] * (latents.ndim - 1))))


def _plain(latents: Any) -> np.ndarray:
    """Latents as a NumPy array: float32, or int32 for tokens."""
    array = np.asarray(keras.ops.convert_to_numpy(latents))
    return array.astype(np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32)


def _read_problems(folder: Path) -> list[Problem]:
    found = json.loads((folder / PROBLEMS).read_text(encoding="utf-8"))
    return [Problem(where, what) for where, what in found]


def _write_problems(folder: Path, problems: Iterable[Problem]) -> None:
    write_text(folder / PROBLEMS, json.dumps(sorted([problem.where, problem.what] for problem in problems)))


def _stamp(folder: Path) -> tuple[int, ...]:
    """Numbers that change with the list of problems."""
    found = (folder / PROBLEMS).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
