"""A cache on disk of a frozen encoder's outputs. Each different input is encoded once for this and all later runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.backend.compiled import Compiled
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import distinct, input_key
from kgen.contracts.joint import Joint
from kgen.data.cache import open_or_write
from kgen.data.frozen import provenance
from kgen.data.stored import read_rows, write_rows
from kgen.errors import DataError
from kgen.storage.files import write_text

Batch = dict[str, Any]
Reader = Callable[[Sequence[Any]], Batch]

NAMES = ("sequence", "mask", "pooled")
FORMAT = 3
KEYS = "captions.json"
"""The file of the inputs' keys, in the order of the rows. The key of a caption is the caption itself."""

BATCH = 64


class ConditionCache:
    """Conditions by the keys of their inputs. The arrays stay on disk. Several threads and processes can read a cache.

    Args:
        folder: The folder that `cached_conditions` wrote.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder does not exist, or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        keys = json.loads((folder / KEYS).read_text(encoding="utf-8"))
        self._rows = {key: row for row, key in enumerate(keys)}
        self._arrays = read_rows(folder)
        if any(len(array) != len(keys) for array in self._arrays.values()):
            raise ValueError(f"{folder}: the arrays have another length than the inputs")

    def __len__(self) -> int:
        """Number of different inputs, including the null input."""
        return len(self._rows)

    def lookup(self, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
        """The conditions of B inputs: "sequence" (B, L, D), "mask" (B, L), "pooled" (B, P), all float32.

        The null input (the empty caption) is always in the cache.

        Raises:
            DataError: an input was not among those that were encoded; or a file of the cache is damaged.
        """
        return self.find([input_key(value) for value in inputs])

    def find(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """The conditions of B inputs by their keys; see `lookup`."""
        try:
            rows = [self._rows[key] for key in keys]
        except KeyError as error:
            raise DataError(f"{error} is not among the {len(self)} inputs that were encoded for this run") from None
        return {name: self._arrays[name][rows] for name in NAMES}

    def __reduce__(self) -> tuple[type[ConditionCache], tuple[Path]]:
        return ConditionCache, (self.folder,)


def cached_conditions(encoder: Encoder, inputs: Sequence[Any], cache_dir: str | Path) -> ConditionCache:
    """Encodes every different input, and the null input, unless `cache_dir` already contains their conditions.

    The cache stores floats as bfloat16, with an error of at most 0.4%.

    The name of the cache is a hash of the encoder's class, configuration, precision and weights, of the backend, and of
    the inputs and their tokens. Before a cache is used, two of its rows are computed again and compared, which detects
    a change of the encoder's code.

    Args:
        encoder: The encoder, whose weights must not change.
        inputs: Texts or other inputs, which are read when they are needed; duplicates are encoded once.
        cache_dir: The folder of caches, which is created if needed.

    Raises:
        RunError: `cache_dir` cannot be written.
    """
    encoder(encoder.null_tokens())  # creates the weights
    different = _Different(encoder, inputs)
    return open_or_write(
        Path(cache_dir),
        f"conditions-{_key(encoder, different)}",
        open_=lambda folder: _open(folder, encoder, different),
        write=lambda folder: _write(folder, encoder, different),
    )


def condition_reader(
    encoder: Encoder, inputs: Sequence[Any], cache_dir: str | Path, *, changing: Collection[str] = ()
) -> Reader:
    """Returns a function that turns B inputs into the "tokens" or the "condition" of a batch.

    The conditions of a frozen encoder come from a cache, which is filled first. If encoders are joined, each frozen one
    has its own cache.

    Args:
        encoder, inputs, cache_dir: See `cached_conditions`.
        changing: Fields that have other values in training than in `inputs`. There is no cache for an encoder that
            reads one of them.

    Raises:
        RunError: `cache_dir` cannot be written.
    """
    if isinstance(encoder, Joint):
        return _joint_reader(encoder, inputs, cache_dir, changing)
    if not is_cached(encoder, changing):
        return lambda values: {"tokens": encoder.tokenize(values)}
    cache = cached_conditions(encoder, inputs, cache_dir)
    return lambda values: {"condition": cache.lookup(values)}


def is_cached(encoder: Encoder, changing: Collection[str]) -> bool:
    """Whether the conditions of an encoder can be cached; see `condition_reader`."""
    return not encoder.trainable and bool(encoder.weights) and not set(encoder.fields) & set(changing)


def _joint_reader(encoder: Joint, inputs: Sequence[Any], cache_dir: str | Path, changing: Collection[str]) -> Reader:
    own = [encoder.own(index, inputs) for index in range(len(encoder.joined))]
    readers = [
        condition_reader(joined, values, cache_dir, changing=changing)
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

    def batches(self) -> Iterator[list[str]]:
        """The keys, `BATCH` at a time."""
        return (self.keys[i : i + BATCH] for i in range(0, len(self.keys), BATCH))


def _key(encoder: Encoder, different: _Different) -> str:
    digest = hashlib.blake2b(json.dumps({"format": FORMAT, **provenance(encoder)}).encode(), digest_size=16)
    for keys in different.batches():
        digest.update(json.dumps(keys).encode())
        for name, array in sorted(encoder.tokenize(different.read(keys)).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _open(folder: Path, encoder: Encoder, different: _Different) -> ConditionCache | None:
    """Opens the cache in `folder`. Returns None if it is incomplete, or if the encoder now has other outputs."""
    ends = [different.keys[0], different.keys[-1]]
    try:
        cache = ConditionCache(folder)
        stored = cache.find(ends)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    made = encoder(encoder.tokenize(different.read(ends)))
    same = (np.allclose(stored[name], _float32(made[name]), rtol=1e-2, atol=1e-2) for name in NAMES)
    return cache if all(same) else None


def _write(folder: Path, encoder: Encoder, different: _Different) -> None:
    write_rows(folder, len(different.keys), _encoded(encoder, different), "bfloat16")
    write_text(folder / KEYS, json.dumps(different.keys))


def _encoded(encoder: Encoder, different: _Different) -> Iterator[dict[str, np.ndarray]]:
    model = Compiled(encoder, [encoder])
    for keys in different.batches():
        filled = [*keys, *[""] * (BATCH - len(keys))]  # batches of one shape need only one compiled program
        condition = model.predict_on_batch(encoder.tokenize(different.read(filled)))
        yield {name: _float32(condition[name])[: len(keys)] for name in NAMES}


def _float32(array: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(array)).astype(np.float32)
