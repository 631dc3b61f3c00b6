"""Inputs of encoders: the value of the field of an example that the encoder reads, or a mapping of several fields.

A caption or a label is a text, and an image is an array. The input of an encoder that reads a caption and a label is
`{"caption": ..., "label": ...}`.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kgen.contracts.dataset import SPLITS, Dataset, Split
from kgen.contracts.encoder import Encoder
from kgen.errors import ConfigError
from kgen.plugins.discovery import component_id


def input_key(value: Any) -> str:
    """A text that identifies an input; "" identifies the null input. A text is its own key.

    Cached conditions are found by their keys, and the noise of an image depends on the key of its prompt.

    Raises:
        ConfigError: it is neither a text, a number, an array, nor a mapping of these.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        keys = {str(field): input_key(item) for field, item in sorted(value.items())}
        return json.dumps(keys) if any(keys.values()) else ""
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        digest = hashlib.blake2b(f"{value.dtype} {value.shape} ".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(value).tobytes())
        return f"array {digest.hexdigest()}"
    raise ConfigError(f"a prompt is a text, a number, an array, or a mapping of fields, not {type(value).__name__}")


def as_input(encoder: Encoder, value: Any) -> Any:
    """Makes an input of `encoder.tokenize` from the value of its field, or from a mapping of fields.

    The null input replaces the fields that a mapping leaves out.

    Raises:
        ConfigError: a mapping has a field that the encoder does not read; or the encoder reads several fields, and the
            value is not a mapping.
    """
    fields = encoder.fields
    if not isinstance(value, Mapping):
        if len(fields) == 1 or input_key(value) == "":
            return value if len(fields) == 1 else encoder.null
        raise ConfigError(
            f"encoder '{component_id(encoder)}' reads {' and '.join(fields)}: a prompt is a mapping of these fields, "
            f"such as {{{', '.join(f'{field}: ...' for field in fields)}}}"
        )
    if unknown := [str(field) for field in value if field not in fields]:
        near = difflib.get_close_matches(unknown[0], fields, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(
            f"encoder '{component_id(encoder)}' reads {' and '.join(fields)}: a prompt cannot hold '{unknown[0]}'{hint}"
        )
    if len(fields) == 1:
        return value.get(fields[0], encoder.null)
    return {field: value.get(field, encoder.null[field]) for field in fields}


def require_fields(encoder: Encoder, dataset: Dataset, owner: str = "dataset") -> None:
    """Raises ConfigError if an encoder reads a field that a dataset does not have.

    Args:
        owner: The name of the dataset's role, for the message.
    """
    if missing := [field for field in encoder.fields if field not in dataset.fields]:
        raise ConfigError(
            f"encoder '{component_id(encoder)}' reads the field '{missing[0]}', but {owner} '{component_id(dataset)}' "
            f"has {', '.join(dataset.fields)}: choose another encoder, or data with that field"
        )


def distinct(inputs: Iterable[Any]) -> dict[str, int]:
    """The index of the first occurrence of each different input, by its key."""
    found: dict[str, int] = {}
    for index, value in enumerate(inputs):
        found.setdefault(input_key(value), index)
    return found


def are_texts(inputs: Sequence[Any]) -> bool:
    """Whether inputs are texts, such as captions and labels, which are cheap to read."""
    first = inputs[0] if len(inputs) else ""
    return all(isinstance(value, str) for value in (first.values() if isinstance(first, Mapping) else [first]))


@dataclass(frozen=True)
class Visits:
    """Says which examples of a split a batch is made of, and which of their captions and views.

    Args:
        split: The split.
        rows: The rows of the examples, in the numbering of `EncoderInputs`.
        captions: The random integer that determines each caption (see `EncoderInputs.drawn`), or None.
        views: The view of each image.
    """

    split: Split
    rows: Sequence[int]
    captions: Sequence[int | None]
    views: Sequence[int]


class EncoderInputs(Sequence[Any]):
    """An encoder's inputs for all examples of a split. Each is read when it is accessed.

    Args:
        fields: The fields that the encoder reads. An input is the value of a single field, or a mapping of several.
        flip: Whether to add mirror images: row 2 i is example i, and row 2 i + 1 is its mirror image.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        fields: Sequence[str],
        *,
        flip: bool = False,
    ) -> None:
        self.columns = {field: dataset.values(split, field) for field in fields}
        self.dataset, self.split = dataset, split
        self.length = len(dataset.captions(split)) * (2 if flip else 1)
        self.flip = flip

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        return self.drawn(range(self.length)[index])

    def drawn(self, row: int, number: int | None = None, image: Callable[[], np.ndarray] | None = None) -> Any:
        """The input of a row in training, where the caption and the view of the image are picked at random.

        Args:
            number: A random integer from 0 on, which determines the caption (`Dataset.drawn_caption`). None: the
                caption is that of `Dataset.captions`.
            image: Function that reads the field "image"; None: `Dataset.image` reads it.
        """
        if len(self.columns) == 1:
            return self.value(row, next(iter(self.columns)), number, image)
        return _Fields(self, row, number, image)

    def __iter__(self) -> Iterator[Any]:
        if len(self.columns) == 1 and not self.flip:  # this is faster, for millions of captions
            return iter(*self.columns.values())
        return (self[row] for row in range(self.length))

    def value(
        self, row: int, field: str, number: int | None = None, image: Callable[[], np.ndarray] | None = None
    ) -> Any:
        """One field of an input; see `drawn`. If the image was read and is damaged, the replacement has this value."""
        if field == "image" and image is not None:
            return image()
        index = self.dataset.replacement(self.split, row // 2 if self.flip else row)
        if field == "caption" and number is not None:
            return self.dataset.drawn_caption(self.split, index, number)
        value = self.columns[field][index]
        return mirrored(value) if self.flip and row % 2 else value

    def visited(self, visits: Visits, images: Sequence[Callable[[], np.ndarray]]) -> Sequence[Any]:
        """The inputs of a batch. Each is read when it is accessed, and kept.

        Args:
            visits: The examples of the batch.
            images: Functions that read the field "image" of each.
        """
        return _Visited(self, visits, images)

    def place(self, row: int, caption: int | None, view: int) -> int:
        """The index of the input that an example has when it is visited; that of its replacement if it has one."""
        index, mirrored = divmod(row, 2) if self.flip else (row, 0)
        index = self.dataset.replacement(self.split, index)
        return 2 * index + mirrored if self.flip else index

    def view(self, row: int, number: int) -> np.ndarray:
        """View `number` of the image of a row; see `Dataset.view`."""
        image = self.dataset.view(self.split, row // 2 if self.flip else row, number)
        return np.asarray(mirrored(image)) if self.flip and row % 2 else image


class _Fields(Mapping[str, Any]):
    """An input of several fields, each of which is read when it is accessed, and kept."""

    def __init__(
        self, inputs: EncoderInputs, row: int, number: int | None, image: Callable[[], np.ndarray] | None
    ) -> None:
        self.inputs, self.row, self.number, self.image = inputs, row, number, image
        self.known: dict[str, Any] = {}

    def __getitem__(self, field: str) -> Any:
        if field not in self.known:
            if field not in self.inputs.columns:
                raise KeyError(field)
            self.known[field] = self.inputs.value(self.row, field, self.number, self.image)
        return self.known[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self.inputs.columns)

    def __len__(self) -> int:
        return len(self.inputs.columns)


class _Visited(Sequence[Any]):
    """See `EncoderInputs.visited`."""

    def __init__(self, inputs: EncoderInputs, visits: Visits, images: Sequence[Callable[[], np.ndarray]]) -> None:
        self.inputs, self.visits, self.images = inputs, visits, images
        self.known: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.visits.rows)

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        if place not in self.known:
            row, caption = self.visits.rows[place], self.visits.captions[place]
            self.known[place] = self.inputs.drawn(row, caption, self.images[place])
        return self.known[place]


class _EveryVariant(Sequence[Any]):
    """Inputs with every caption, and every view of the image, that training may pick, one example after the other.

    Args:
        inputs: The inputs.
        captions: Whether training picks one of several captions.
        views: Number of views from which training picks one; 1: training uses the image itself.
    """

    def __init__(self, inputs: EncoderInputs, captions: bool, views: int) -> None:
        self.inputs, self.captions, self.views = inputs, captions, views
        counts = np.full(len(inputs), views, np.int64)
        if captions:
            rows = (row // 2 if inputs.flip else row for row in range(len(inputs)))
            counts *= np.fromiter((len(inputs.dataset.texts(inputs.split, row)) for row in rows), np.int64, len(inputs))
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        row = int(np.searchsorted(self.ends, place, side="right"))
        caption, view = divmod(place - (int(self.ends[row - 1]) if row else 0), self.views)
        image = functools.partial(self.inputs.view, row, view) if self.views > 1 else None
        return self.inputs.drawn(row, caption if self.captions else None, image)

    def place(self, row: int, caption: int | None, view: int) -> int:
        """See `EncoderInputs.place`."""
        inputs = self.inputs
        row = inputs.place(row, caption, view)
        first = int(self.ends[row - 1]) if row else 0
        number = 0
        if self.captions:
            index = row // 2 if inputs.flip else row
            texts = inputs.dataset.texts(inputs.split, index)
            shown = texts.index(inputs.dataset.captions(inputs.split)[index]) if caption is None else caption
            number = shown % len(texts)
        return first + number * self.views + (view if self.views > 1 else 0)


def _complete(inputs: EncoderInputs, every_view: bool = False) -> EncoderInputs | _EveryVariant:
    """The inputs, with every caption that training may pick, and also every view if `every_view` is set."""
    dataset, training = inputs.dataset, inputs.split == "train"
    captions = dataset.draw_captions and training and "caption" in inputs.columns
    views = dataset.views if every_view and training and "image" in inputs.columns else 1
    return _EveryVariant(inputs, captions, views) if captions or views > 1 else inputs


class AllEncoderInputs(Sequence[Any]):
    """An encoder's inputs for the examples of all splits, with every caption and view, one split after the other.

    Args:
        dataset: The dataset.
        fields: The fields that the encoder reads.
        flip: Whether to add the mirror images of "train".
    """

    def __init__(self, dataset: Dataset, fields: Sequence[str], *, flip: bool = False) -> None:
        self.dataset, self.fields, self.flip = dataset, tuple(fields), flip
        self.parts = [
            _complete(EncoderInputs(dataset, split, fields, flip=flip and split == "train"), every_view=True)
            for split in SPLITS
        ]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: Any) -> Any:
        row = range(len(self))[index]
        for part in self.parts:
            if row < len(part):
                return part[row]
            row -= len(part)
        raise IndexError(index)

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.parts)

    def of(self, fields: Sequence[str]) -> AllEncoderInputs:
        """The inputs of an encoder that reads other fields."""
        return AllEncoderInputs(self.dataset, fields, flip=self.flip)

    def places(self, visits: Visits) -> list[int]:
        """The index of each input of a batch. The images that are damaged must be known: see `EncoderInputs.place`."""
        number = SPLITS.index(visits.split)
        first, part = sum(map(len, self.parts[:number])), self.parts[number]
        return [first + part.place(*visit) for visit in zip(visits.rows, visits.captions, visits.views, strict=True)]


def training_inputs(dataset: Dataset, encoder: Encoder) -> Sequence[Any]:
    """The inputs of the training examples, with every caption, which `Encoder.adapt` accepts."""
    if len(encoder.fields) == 1 and not dataset.draw_captions:
        return dataset.values("train", encoder.fields[0])
    return _complete(EncoderInputs(dataset, "train", encoder.fields))


def mirrored(value: Any) -> Any:
    """The mirror image of an image, uint8 (height, width, channels); other values are unchanged."""
    is_image = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3
    return value[:, ::-1] if is_image else value
