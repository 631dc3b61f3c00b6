"""What an encoder reads of a dataset's examples, and which of them to render."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kgen.contracts.dataset import SPLITS, Dataset, Split
from kgen.contracts.encoder import Encoder


class EncoderInputs(Sequence[Any]):
    """An encoder's inputs of all examples of a split. Each is read when it is asked for.

    Args:
        fields: The fields that the encoder reads: an input is the value of the one, or a mapping of several.
        flip: Whether every example is there mirrored, too: row 2 i is example i, row 2 i + 1 its mirror image.
        image: Reads the field "image" by its row, where that is kept elsewhere.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        fields: Sequence[str],
        *,
        flip: bool = False,
        image: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.columns = {field: dataset.values(split, field) for field in fields}
        self.length = len(dataset.captions(split)) * (2 if flip else 1)
        self.flip = flip
        self.image = image

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        row = range(self.length)[index]
        found = {field: self._value(field, row) for field in self.columns}
        return found if len(found) > 1 else next(iter(found.values()))

    def _value(self, field: str, row: int) -> Any:
        if field == "image" and self.image is not None:
            return self.image(row)
        value = self.columns[field][row // 2 if self.flip else row]
        return mirrored(value) if self.flip and row % 2 else value


class AllEncoderInputs(Sequence[Any]):
    """An encoder's inputs of all examples of all splits, one split after the other.

    Args:
        flip: Whether the examples of "train" are there mirrored, too.
    """

    def __init__(self, dataset: Dataset, fields: Sequence[str], *, flip: bool = False) -> None:
        self.parts = [EncoderInputs(dataset, split, fields, flip=flip and split == "train") for split in SPLITS]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: Any) -> Any:
        row = range(len(self))[index]
        for part in self.parts:
            if row < len(part):
                return part[row]
            row -= len(part)
        raise IndexError(index)


def training_inputs(dataset: Dataset, encoder: Encoder) -> Sequence[Any]:
    """What an encoder learns from: its inputs of the training examples."""
    if len(encoder.fields) == 1:
        return dataset.values("train", encoder.fields[0])
    return EncoderInputs(dataset, "train", encoder.fields)


def mirrored(value: Any) -> Any:
    """The mirror image of an image, uint8 (height, width, channels); other values stay."""
    is_image = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3
    return value[:, ::-1] if is_image else value
