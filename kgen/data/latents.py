"""A cache on disk of a trained decoder's latents. Each image is encoded once for this and all later runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.backend.compiled import Compiled
from kgen.contracts.dataset import Dataset, Problem, Split
from kgen.contracts.decoder import Decoder
from kgen.data.cache import hash_of, open_or_write
from kgen.data.frozen import provenance
from kgen.data.reading.workers import image_of
from kgen.data.stored import read_rows, write_rows
from kgen.errors import ConfigError, DataError
from kgen.pixels import floats
from kgen.storage.files import write_text

FORMAT = 3
BATCH = 64
NAME = "latent"
PROBLEMS = "problems.json"
"""The file that lists the damaged images. The latents of other images take their places."""


class LatentCache:
    """Latents by row, which stay on disk. Several threads and processes can read a cache.

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


def cached_latents(
    decoder: Decoder, dataset: Dataset, split: Split, cache_dir: str | Path, *, flip: bool = False, views: int = 1
) -> LatentCache:
    """Encodes every image of a split, unless `cache_dir` already contains the latents.

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
        ConfigError: the images have several shapes.
    """
    if dataset.rows_by_shape(split):
        raise ConfigError(
            f"the latents of {type(decoder).__name__} are cached, which needs images of one shape, but these have "
            "several (resize: bucket): use resize: crop, or the decoder 'identity', whose latents are the images"
        )
    images = _Images(dataset, split, flip, views)
    cache = open_or_write(
        Path(cache_dir),
        f"latents-{_key(decoder, images)}",
        open_=lambda folder: _open(folder, decoder, images),
        write=lambda folder: _write(folder, decoder, images),
    )
    for problem in cache.problems:
        dataset.report(problem)
    return cache


class _Images:
    """The images of a split in the order of the cache's rows."""

    def __init__(self, dataset: Dataset, split: Split, flip: bool, views: int) -> None:
        self.dataset, self.split, self.flip, self.views = dataset, split, flip, views

    def __len__(self) -> int:
        return (2 if self.flip else 1) * self.views * len(self.dataset.captions(self.split))

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Images uint8 (B, H, W, C)."""
        return np.stack([image_of(self.dataset, self.split, row, self.flip, self.views) for row in rows])


def _key(decoder: Decoder, images: _Images) -> str:
    dataset = images.dataset
    described = {
        "format": FORMAT,
        **provenance(decoder),
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
