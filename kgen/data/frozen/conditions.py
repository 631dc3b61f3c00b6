"""A cache on disk of a frozen encoder's outputs. Each different input is encoded once for this and all later runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import AllEncoderInputs, Visits, are_texts, distinct, input_key
from kgen.contracts.joint import Joint
from kgen.data.frozen.condition_rows import BATCH, FORMAT, ConditionRows, Source, open_conditions
from kgen.data.frozen.example_conditions import cached_examples
from kgen.data.frozen.filling import Filling, provenance
from kgen.errors import DataError
from kgen.storage.files import write_text

Batch = dict[str, Any]

KEYS = "captions.json"
"""The file of the inputs' keys, in the order of the rows. The key of a caption is the caption itself."""

SAMPLE = 1000
"""Largest number of inputs that are tokenized to name a cache."""


class Reader(Protocol):
    """Turns B inputs into the "tokens" or the "condition" of a batch."""

    def __call__(self, inputs: Sequence[Any], visits: Visits | None = None, /) -> Batch:
        """Reads a batch.

        Args:
            inputs: The inputs, which may be read when they are accessed.
            visits: The examples that they are from; None: they are from no dataset.
        """


class ConditionCache(ConditionRows):
    """Conditions of texts and labels, by the keys of these inputs.

    Args:
        folder: The folder that `cached_conditions` made.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder does not exist, or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        keys = json.loads((folder / KEYS).read_text(encoding="utf-8"))
        self._rows = {key: row for row, key in enumerate(keys)}
        super().__init__(folder)
        if len(self.stored) != len(keys):
            raise ValueError(f"{folder}: the arrays have another length than the inputs")

    def lookup(self, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
        """The conditions of B inputs; see `read`.

        Raises:
            DataError: an input is not among those that the cache was made for; a condition is missing or damaged, and
                cannot be computed now; or the disk is full.
        """
        try:
            rows = [self._rows[input_key(value)] for value in inputs]
        except KeyError as error:
            raise DataError(f"{error} is not among the {len(self)} inputs that were encoded for this run") from None
        if self.encoding is None:
            return self.read(rows, inputs)
        null = self.encoding.encoder.null
        return self.read(rows, [value if row else null for row, value in zip(rows, inputs, strict=True)])

    def __reduce__(self) -> tuple[type[ConditionCache], tuple[Path]]:
        return ConditionCache, (self.folder,)


def cached_conditions(
    encoder: Encoder, inputs: Sequence[Any], cache_dir: str | Path, filling: Filling | None = None
) -> ConditionCache:
    """Opens the cache of the conditions of every different input, and of the null input.

    The name of the cache is a hash of the encoder's class, configuration, precision, assets and weights, of the
    backend, of all inputs, and of the tokens of 1,000 of them. A change of the encoder's code is detected by these
    tokens, and when the cache is opened.

    Args:
        encoder, cache_dir, filling: See `open_conditions`, also for errors.
        inputs: Texts or labels; duplicates are encoded once.
    """
    return open_conditions(encoder, _Different(encoder, inputs), cache_dir, filling)


def condition_reader(
    encoder: Encoder,
    inputs: AllEncoderInputs,
    cache_dir: str | Path,
    *,
    changing: Collection[str] = (),
    filling: Filling | None = None,
) -> Reader:
    """Returns a function that turns B inputs into the "tokens" or the "condition" of a batch.

    The conditions of a frozen encoder come from a cache. If encoders are joined, each frozen one has its own cache.
    Texts and labels are found by their content (`cached_conditions`), and images and other arrays by their examples
    (`cached_examples`).

    Args:
        encoder, cache_dir, filling: See `open_conditions`.
        inputs: The inputs of all examples, in the fields of the encoder.
        changing: Fields that have other values in training than in `inputs`. There is no cache for an encoder that
            reads one of them.

    Raises:
        RunError: `cache_dir` cannot be written.
    """
    if isinstance(encoder, Joint):
        return _joint_reader(encoder, inputs, cache_dir, changing, filling)
    if not is_cached(encoder, changing):
        return lambda values, visits=None: {"tokens": encoder.tokenize(list(values))}
    if are_texts(inputs):
        texts = cached_conditions(encoder, inputs, cache_dir, filling)
        return lambda values, visits=None: {"condition": texts.lookup(values)}
    examples = cached_examples(encoder, inputs, cache_dir, filling)
    return lambda values, visits=None: {"condition": examples.lookup(values, visits)}


def is_cached(encoder: Encoder, changing: Collection[str]) -> bool:
    """Whether the conditions of an encoder can be cached; see `condition_reader`."""
    return not encoder.trainable and bool(encoder.weights) and not set(encoder.fields) & set(changing)


def _joint_reader(
    encoder: Joint,
    inputs: AllEncoderInputs,
    cache_dir: str | Path,
    changing: Collection[str],
    filling: Filling | None,
) -> Reader:
    readers = [
        condition_reader(joined, inputs.of(joined.fields), cache_dir, changing=changing, filling=filling)
        for joined in encoder.joined
    ]
    for index, (joined, read) in enumerate(zip(encoder.joined, readers, strict=True)):
        if "condition" in (null := read([joined.null])):
            encoder.remember_null(index, null["condition"])
    return lambda values, visits=None: {
        "tokens": encoder.pack([read(encoder.own(index, values), visits) for index, read in enumerate(readers)])
    }


class _Different(Source[ConditionCache]):
    """The different inputs, in the order of their keys, after the null input."""

    def __init__(self, encoder: Encoder, inputs: Sequence[Any]) -> None:
        self.encoder, self.inputs = encoder, inputs
        self.first = distinct(inputs)
        self.keys = ["", *sorted(self.first.keys() - {""})]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self) -> str:
        """A hash of the encoder, of all inputs, and of the tokens of a sample: to tokenize millions takes long."""
        described = {"format": FORMAT, **provenance(self.encoder)}
        digest = hashlib.blake2b(json.dumps(described).encode(), digest_size=16)
        digest.update(json.dumps(self.keys).encode())
        for rows in self._sample():
            for name, array in sorted(self.encoder.tokenize(self.read(rows)).items()):
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def read(self, rows: Sequence[int]) -> list[Any]:
        return [self.inputs[self.first[self.keys[row]]] if row else self.encoder.null for row in rows]

    def open(self, folder: Path) -> ConditionCache:
        return ConditionCache(folder)

    def describe(self, folder: Path) -> None:
        write_text(folder / KEYS, json.dumps(self.keys))

    def _sample(self) -> Iterator[Sequence[int]]:
        """Up to `SAMPLE` rows at even distances, `BATCH` at a time."""
        rows = range(0, len(self.keys), -(-len(self.keys) // SAMPLE))
        return (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))
