"""A cache on disk of a frozen encoder's outputs. Each different input is encoded once for this and all later runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import distinct, input_key
from kgen.contracts.joint import Joint
from kgen.data.cache import open_or_write
from kgen.data.frozen.filling import Filling, provenance
from kgen.data.frozen.stored import Arrays, StoredRows, create_rows
from kgen.errors import DataError
from kgen.plugins.discovery import component_id
from kgen.storage.files import write_text

Batch = dict[str, Any]
Reader = Callable[[Sequence[Any]], Batch]

NAMES = ("sequence", "mask", "pooled")
FORMAT = 5
KEYS = "captions.json"
"""The file of the inputs' keys, in the order of the rows. The key of a caption is the caption itself."""

BATCH = 16
"""Number of inputs that are encoded at once. A single program encodes all inputs, so that a condition does not depend
on the size of the batch that first needs it."""

SAMPLE = 1000
"""Largest number of inputs that are tokenized to name a cache."""


class ConditionCache:
    """Conditions by the keys of their inputs, which stay on disk. Several threads and processes can use a cache.

    A missing condition is computed when it is first read. Every condition is read from the disk, also right after it
    was computed. A training therefore does not depend on what was in the cache when it began.

    Args:
        folder: The folder that `cached_conditions` made.
        encoding: Computes conditions that are missing; None: no condition is missing.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder does not exist, or is damaged.
    """

    def __init__(self, folder: Path, encoding: _Encoding | None = None) -> None:
        self.folder, self.encoding = folder, encoding
        keys = json.loads((folder / KEYS).read_text(encoding="utf-8"))
        self._rows = {key: row for row, key in enumerate(keys)}
        self.stored = StoredRows(folder)
        if len(self.stored) != len(keys):
            raise ValueError(f"{folder}: the arrays have another length than the inputs")

    def __len__(self) -> int:
        """Number of different inputs, including the null input."""
        return len(self._rows)

    @property
    def written(self) -> int:
        return int(np.count_nonzero(self.stored.marks()))

    def lookup(self, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
        """The conditions of B inputs: "sequence" (B, L, D), "mask" (B, L), "pooled" (B, P), all float32.

        Raises:
            DataError: an input is not among those that the cache was made for; a condition is missing or damaged, and
                cannot be computed now; or the disk is full.
        """
        try:
            rows = [self._rows[input_key(value)] for value in inputs]
        except KeyError as error:
            raise DataError(f"{error} is not among the {len(self)} inputs that were encoded for this run") from None
        if self.encoding is None:
            return self.stored.read(rows)
        encoding = self.encoding
        values = {**dict(zip(rows, inputs, strict=True)), self._rows[""]: encoding.encoder.null}
        return self.stored.read(rows, lambda missing: encoding([values[row] for row in missing]))

    def fill(self) -> None:
        if self.encoding is None:
            return
        keys = list(self._rows)
        for rows in self.stored.missing(BATCH):
            self.lookup(self.encoding.different.read([keys[row] for row in rows]))

    def __reduce__(self) -> tuple[type[ConditionCache], tuple[Path]]:
        return ConditionCache, (self.folder,)


def cached_conditions(
    encoder: Encoder, inputs: Sequence[Any], cache_dir: str | Path, filling: Filling | None = None
) -> ConditionCache:
    """Opens the cache of the conditions of every different input, and of the null input.

    The cache stores floats as bfloat16, with an error of at most 0.4%.

    The name of the cache is a hash of the encoder's class, configuration, precision, assets and weights, of the
    backend, of all inputs, and of the tokens of 1,000 of them. When a cache is opened, two of its conditions are
    computed again and compared. Both detect a change of the encoder's code.

    Args:
        encoder: The encoder, whose weights must not change.
        inputs: Texts or other inputs, which are read when they are needed; duplicates are encoded once.
        cache_dir: The folder of caches, which is created if needed.
        filling: Decides when the conditions that are missing are computed; None: now.

    Raises:
        RunError: `cache_dir` cannot be written.
        DataError: the disk is full.
    """
    filling = filling or Filling(training=False)
    null = encoder(encoder.null_tokens())  # creates the weights
    different = _Different(encoder, inputs)
    cache = open_or_write(
        Path(cache_dir),
        f"conditions-{_key(encoder, different)}",
        open_=lambda folder: _open(folder, encoder, different),
        write=lambda folder: _create(folder, {name: tuple(null[name].shape[1:]) for name in NAMES}, different),
    )
    if cache.written < len(cache) or not filling.training:
        program = filling.program(encoder, lambda tokens: encoder(tokens, training=False))
        cache.encoding = _Encoding(encoder, different, program)
    filling.begin(cache, encoder, f"conditions of encoder '{component_id(encoder)}'")
    return cache


def condition_reader(
    encoder: Encoder,
    inputs: Sequence[Any],
    cache_dir: str | Path,
    *,
    changing: Collection[str] = (),
    filling: Filling | None = None,
) -> Reader:
    """Returns a function that turns B inputs into the "tokens" or the "condition" of a batch.

    The conditions of a frozen encoder come from a cache. If encoders are joined, each frozen one has its own cache.

    Args:
        encoder, inputs, cache_dir, filling: See `cached_conditions`.
        changing: Fields that have other values in training than in `inputs`. There is no cache for an encoder that
            reads one of them.

    Raises:
        RunError: `cache_dir` cannot be written.
    """
    if isinstance(encoder, Joint):
        return _joint_reader(encoder, inputs, cache_dir, changing, filling)
    if not is_cached(encoder, changing):
        return lambda values: {"tokens": encoder.tokenize(values)}
    cache = cached_conditions(encoder, inputs, cache_dir, filling)
    return lambda values: {"condition": cache.lookup(values)}


def is_cached(encoder: Encoder, changing: Collection[str]) -> bool:
    """Whether the conditions of an encoder can be cached; see `condition_reader`."""
    return not encoder.trainable and bool(encoder.weights) and not set(encoder.fields) & set(changing)


def _joint_reader(
    encoder: Joint,
    inputs: Sequence[Any],
    cache_dir: str | Path,
    changing: Collection[str],
    filling: Filling | None,
) -> Reader:
    own = [encoder.own(index, inputs) for index in range(len(encoder.joined))]
    readers = [
        condition_reader(joined, values, cache_dir, changing=changing, filling=filling)
        for joined, values in zip(encoder.joined, own, strict=True)
    ]
    for index, (joined, read) in enumerate(zip(encoder.joined, readers, strict=True)):
        if "condition" in (null := read([joined.null])):
            encoder.remember_null(index, null["condition"])
    return lambda values: {"tokens": encoder.pack([read(encoder.own(i, values)) for i, read in enumerate(readers)])}


class _Different:
    """The different inputs, in the order of their keys, after the null input."""

    def __init__(self, encoder: Encoder, inputs: Sequence[Any]) -> None:
        self.null, self.inputs = encoder.null, inputs
        self.first = distinct(inputs)
        self.keys = ["", *sorted(self.first.keys() - {""})]

    def read(self, keys: Sequence[str]) -> list[Any]:
        return [self.inputs[self.first[key]] if key else self.null for key in keys]

    def sample(self) -> Iterator[list[str]]:
        """Up to `SAMPLE` keys at even distances, `BATCH` at a time."""
        keys = self.keys[:: -(-len(self.keys) // SAMPLE)]
        return (keys[i : i + BATCH] for i in range(0, len(keys), BATCH))


def _key(encoder: Encoder, different: _Different) -> str:
    """A hash of the encoder, of all inputs, and of the tokens of a sample: it would take long to tokenize millions."""
    digest = hashlib.blake2b(json.dumps({"format": FORMAT, **provenance(encoder)}).encode(), digest_size=16)
    digest.update(json.dumps(different.keys).encode())
    for keys in different.sample():
        for name, array in sorted(encoder.tokenize(different.read(keys)).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class _Encoding:
    """Computes conditions of inputs.

    Args:
        encoder: The encoder.
        different: All inputs of the cache.
        program: The compiled encoder, for the tokens of `BATCH` inputs.
    """

    def __init__(self, encoder: Encoder, different: _Different, program: Callable[[Batch], Any]) -> None:
        self.encoder, self.different, self.program = encoder, different, program

    def __call__(self, inputs: Sequence[Any]) -> Arrays:
        """The arrays of B inputs, as they are stored."""
        parts = []
        for first in range(0, len(inputs), BATCH):
            part = list(inputs[first : first + BATCH])
            filled = part + [self.encoder.null] * (BATCH - len(part))  # batches of one size need only one program
            condition = self.program(self.encoder.tokenize(filled))
            parts.append({name: _float32(condition[name])[: len(part)] for name in NAMES})
        return {name: np.concatenate([part[name] for part in parts]) for name in NAMES}


def _open(folder: Path, encoder: Encoder, different: _Different) -> ConditionCache | None:
    """Opens the cache in `folder`. Returns None if it is damaged, or if the encoder now has other outputs."""
    try:
        cache = ConditionCache(folder)
        ends = cache.stored.ends()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not ends:
        return cache
    stored = cache.stored.read(ends)
    made = encoder(encoder.tokenize(different.read([different.keys[row] for row in ends])))
    same = (np.allclose(stored[name], _float32(made[name]), rtol=1e-2, atol=1e-2) for name in NAMES)
    return cache if all(same) else None


def _create(folder: Path, shapes: Mapping[str, tuple[int, ...]], different: _Different) -> None:
    create_rows(folder, len(different.keys), {name: ("bfloat16", shape) for name, shape in shapes.items()})
    write_text(folder / KEYS, json.dumps(different.keys))


def _float32(array: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(array)).astype(np.float32)
