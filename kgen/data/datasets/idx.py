"""MNIST, Fashion-MNIST, and other datasets in the IDX format."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from kgen.contracts.dataset import Dataset, Split, short_digest
from kgen.data.splits import check_holdout
from kgen.errors import DataError
from kgen.spaces import Space

MEMORY_LIMIT = 2**31
"""Largest uncompressed size of a file, in bytes, because files are held in memory. MNIST has 47 million bytes."""

FILES = {"train": "train", "validation": "t10k"}
"""The prefix of the file names, by split."""


class Idx(Dataset):
    """Images of classes, from IDX files (LeCun et al. 1998). Captions and labels are the names of the classes.

    The folder contains ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, and the same with ``t10k`` for the
    validation split. Each file may be compressed (``.gz``). Debian's package dataset-fashion-mnist has such a folder.

    Args:
        path: The folder.
        classes: The names of the labels 0, 1, 2 ...; empty: the numbers themselves.
        size: Height and width of the images, which are padded with zeros; null: the size in the file.
        limit: Number of training images to use, from the first on; null: all.
        validation: Number of test images to use for validation, from the first on.
        holdout: Classes to keep out of training.

    Raises:
        DataError: a file is missing or damaged; a label has no name; `size` is too small.
    """

    fields = ("image", "caption", "label")

    def __init__(
        self,
        *,
        path: Annotated[str, Field(min_length=1)],
        classes: tuple[str, ...] = (),
        size: Annotated[int, Field(ge=4, le=4096)] | None = None,
        limit: PositiveInt | None = None,
        validation: NonNegativeInt = 1000,
        holdout: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.classes = classes
        self.size = size
        self.limit = limit
        self.validation = validation
        self.holdout = holdout
        folder = Path(path).expanduser()
        images, captions = _read_pair(folder, FILES["train"], classes, limit)
        check_holdout(holdout, captions, "idx")
        held = np.isin(captions, holdout)
        if held.all():
            raise DataError("idx: holdout leaves no image to train on")
        self._images = {"train": images[~held], "holdout": images[held]}
        self._captions = {"train": _where(captions, ~held), "holdout": _where(captions, held), "validation": []}
        if validation:
            images, captions = _read_pair(folder, FILES["validation"], classes, validation)
            seen = ~np.isin(captions, holdout)
            self._images["validation"], self._captions["validation"] = images[seen], _where(captions, seen)
        self._border = _border(images.shape[1:], size)

    @property
    def image_space(self) -> Space:
        (top, bottom), (left, right), _ = self._border
        height, width = self._images["train"].shape[1:]
        return Space("continuous", (top + height + bottom, left + width + right, 1))

    def captions(self, split: Split) -> Sequence[str]:
        return self._captions[split]

    def image(self, split: Split, index: int) -> np.ndarray:
        return np.pad(self._images[split][index][..., None], self._border)

    def values(self, split: Split, field: str) -> Sequence[Any]:
        return self.captions(split) if field == "label" else super().values(split, field)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(super().fingerprint().encode())
        for split in sorted(self._images):
            digest.update(zlib.crc32(self._images[split].tobytes()).to_bytes(4, "big"))
        return digest.hexdigest()[:16]

    def inventory(self) -> Mapping[str, tuple[str, str]]:
        return {
            f"{split} {index}": (short_digest(image.tobytes()), short_digest(caption.encode()))
            for split, images in self._images.items()
            for index, (image, caption) in enumerate(zip(images, self._captions[split], strict=True))
        }


def _read_pair(folder: Path, first: str, classes: Sequence[str], limit: int | None) -> tuple[np.ndarray, list[str]]:
    """Reads images, uint8 (N, height, width), and N captions."""
    images = read_idx(_find(folder, f"{first}-images-idx3-ubyte"), 3)[:limit]
    labels = read_idx(_find(folder, f"{first}-labels-idx1-ubyte"), 1)[:limit]
    if len(images) != len(labels):
        raise DataError(f"idx: {folder} holds {len(images)} images, but {len(labels)} labels, called {first}")
    if not len(images):
        raise DataError(f"idx: {folder} holds no images called {first}")
    if classes and labels.max() >= len(classes):
        raise DataError(f"idx: {folder} has the label {labels.max()}, but classes names only 0 to {len(classes) - 1}")
    return images, [classes[label] if classes else str(label) for label in labels]


def _where(captions: list[str], chosen: np.ndarray) -> list[str]:
    return [caption for caption, is_chosen in zip(captions, chosen, strict=True) if is_chosen]


def _find(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"idx: {folder} {'is not a folder' if folder.exists() else 'does not exist'}")
    # some downloads have a dot before "idx"
    names = [f"{stem}{end}" for stem in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    found = next((folder / n for n in names if (folder / n).is_file()), None)
    if found is None:
        raise DataError(f"idx: {folder} holds no {name}, nor {name}.gz")
    return found


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes.

    It contains the bytes 0, 0, 8, the number of dimensions, their sizes (big-endian), and the data.

    Raises:
        DataError: the file is damaged, or not such a file of this number of dimensions.
    """
    begin = 4 + 4 * dimensions
    try:
        with path.open("rb") as file, gzip.open(file) if path.suffix == ".gz" else file as stream:
            head = stream.read(begin)
            if head[:4] != bytes((0, 0, 8, dimensions)):
                raise DataError(f"idx: {path} is not an IDX file of unsigned bytes in {dimensions} dimensions")
            shape = tuple(int(n) for n in np.frombuffer(head[4:], ">u4")) if len(head) == begin else ()
            size = math.prod(shape)
            if size > MEMORY_LIMIT:
                raise DataError(f"idx: {path} says that it holds {size:,} bytes: at most {MEMORY_LIMIT:,} are allowed")
            data = stream.read(size + 1)  # one more, to detect extra bytes
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"idx: {path} cannot be read: {error}") from error
    if len(shape) != dimensions or len(data) != size:
        raise DataError(f"idx: {path} is damaged: its size differs from that in its header")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _border(shape: tuple[int, ...], size: int | None) -> tuple[tuple[int, int], ...]:
    """The padding of rows, columns and channels that gives images of `size`."""
    if size is not None and size < max(shape):
        raise DataError(f"idx: the images are {shape[0]}x{shape[1]}: size must be at least {max(shape)}, not {size}")
    missing = [0 if size is None else size - length for length in shape]
    return (*((n // 2, n - n // 2) for n in missing), (0, 0))
