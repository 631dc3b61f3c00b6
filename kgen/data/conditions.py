"""A frozen encoder's outputs on disk: every caption is encoded once, in this run and in all later ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.backend.compiled import Compiled
from kgen.contracts.encoder import Encoder
from kgen.data.cache import open_or_write, provenance, read_arrays, write_arrays
from kgen.errors import DataError
from kgen.storage.files import write_text

NAMES = ("sequence", "mask", "pooled")
FORMAT = 2
BATCH = 64


class ConditionCache:
    """Conditions by caption; the arrays stay on disk. It can be pickled, and read from several threads.

    Args:
        folder: What `cached_conditions` wrote.
        check: Whether to compare checksums.

    Raises:
        OSError, EOFError, ValueError: the folder is not there, or damaged.
    """

    def __init__(self, folder: Path, check: bool = False) -> None:
        self.folder = folder
        captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
        self._rows = {caption: row for row, caption in enumerate(captions)}
        self._arrays = read_arrays(folder, check)
        if any(len(array) != len(captions) for array in self._arrays.values()):
            raise ValueError(f"{folder}: the arrays have another length than the captions")

    def __len__(self) -> int:
        """Number of different captions, with the empty one."""
        return len(self._rows)

    def lookup(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """The conditions of B captions: "sequence" (B, L, D), "mask" (B, L), "pooled" (B, P), all float32.

        The empty caption is always there.

        Raises:
            DataError: a caption was not among those that were encoded.
        """
        try:
            rows = [self._rows[caption] for caption in captions]
        except KeyError as error:
            raise DataError(f"caption {error} is not among the {len(self)} that were encoded for this run") from None
        return {name: np.asarray(self._arrays[name][rows]) for name in NAMES}

    def __reduce__(self) -> tuple[type[ConditionCache], tuple[Path]]:
        return ConditionCache, (self.folder,)


def cached_conditions(encoder: Encoder, captions: Sequence[str], cache_dir: str | Path) -> ConditionCache:
    """Encodes every different caption, and the empty text, unless that was done before.

    What lies in `cache_dir` is found by a hash of the encoder's class, configuration, precision and weights, of the
    backend, and of the captions and their tokens. Before it is used, two of its rows are computed again and compared,
    which finds a change of the encoder's code.

    Args:
        encoder: Its weights must stay as they are.
        captions: Any number of texts; duplicates count once.
        cache_dir: Created where needed.

    Raises:
        RunError: `cache_dir` cannot be written.
    """
    texts = ["", *sorted(set(captions) - {""})]
    encoder(encoder.tokenize([""]))  # creates the weights
    return open_or_write(
        Path(cache_dir),
        f"conditions-{_key(encoder, texts)}",
        open_=lambda folder: _open(folder, encoder, texts),
        write=lambda folder: _write(folder, encoder, texts),
    )


def _key(encoder: Encoder, texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(json.dumps({"format": FORMAT, **provenance(encoder)}).encode(), digest_size=16)
    for batch in _batches(texts):
        digest.update(json.dumps(batch).encode())
        for name, array in sorted(encoder.tokenize(batch).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _open(folder: Path, encoder: Encoder, texts: Sequence[str]) -> ConditionCache | None:
    """The cache in `folder`, if it is whole and holds what the encoder makes today."""
    try:
        cache = ConditionCache(folder, check=True)
        ends = [texts[0], texts[-1]]
        stored = cache.lookup(ends)
    except (OSError, EOFError, ValueError, DataError):
        return None
    made = encoder(encoder.tokenize(ends))
    same = (np.allclose(stored[name], _float32(made[name]), rtol=1e-2, atol=1e-2) for name in NAMES)
    return cache if all(same) else None


def _write(folder: Path, encoder: Encoder, texts: Sequence[str]) -> None:
    write_arrays(folder, len(texts), _encoded(encoder, texts))
    write_text(folder / "captions.json", json.dumps(list(texts)))


def _encoded(encoder: Encoder, texts: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    model = Compiled(encoder, [encoder])
    for batch in _batches(texts):
        filled = [*batch, *[""] * (BATCH - len(batch))]  # one shape: one program
        condition = model.predict_on_batch(encoder.tokenize(filled))
        yield {name: _float32(condition[name])[: len(batch)] for name in NAMES}


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    return (list(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH))


def _float32(array: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(array)).astype(np.float32)
