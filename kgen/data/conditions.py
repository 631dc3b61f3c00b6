"""A frozen encoder's outputs on disk: every caption is encoded once, in this run and in all later ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.components.encoder import Encoder
from kgen.devices import compile_sampling
from kgen.errors import DataError, RunError

NAMES = ("sequence", "mask", "pooled")
FORMAT = 1
BATCH = 64
ABANDONED_AFTER = 24 * 3600
"""Seconds after which a half-written folder belongs to nobody."""


class ConditionCache:
    """Conditions by caption; the arrays stay on disk. It can be pickled, and read from several threads.

    Args:
        folder: What `cached_conditions` wrote.

    Raises:
        OSError, EOFError, ValueError: the folder is not there, or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
        self._rows = {caption: row for row, caption in enumerate(captions)}
        self._arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in NAMES}
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
        return {name: np.asarray(array[rows]) for name, array in self._arrays.items()}

    def __reduce__(self) -> tuple[type[ConditionCache], tuple[Path]]:
        return ConditionCache, (self.folder,)


def cached_conditions(encoder: Encoder, captions: Sequence[str], cache_dir: str | Path) -> ConditionCache:
    """Encodes every different caption, and the empty text, unless that was done before.

    What lies in `cache_dir` is found by a hash of the encoder's class, configuration, precision and weights, of the
    backend, and of the captions and their tokens. Before it is used, two of its rows are computed again and compared,
    which finds a change of the encoder's code. Writing is atomic: an interrupted or simultaneous one does no harm.

    Args:
        encoder: Its weights must stay as they are.
        captions: Any number of texts; duplicates count once.
        cache_dir: Created where needed.

    Raises:
        RunError: `cache_dir` cannot be written.
    """
    texts = ["", *sorted(set(captions) - {""})]
    encoder(encoder.tokenize([""]))  # creates the weights
    cache_dir = Path(cache_dir)
    folder = cache_dir / f"conditions-{_key(encoder, texts)}"
    try:
        if (cache := _open(folder, encoder, texts)) is not None:
            return cache
        cache_dir.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        _remove_abandoned(cache_dir)
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".conditions-") as temporary:
            whole = Path(temporary) / "whole"
            whole.mkdir()
            _write(whole, encoder, texts)
            try:
                os.replace(whole, folder)  # noqa: PTH105 - says that it is atomic
            except OSError:
                if not folder.is_dir():  # else another process was faster, with the same contents
                    raise
        return ConditionCache(folder)
    except OSError as error:
        raise RunError(
            f"the conditions cannot be kept in {cache_dir}: {error}; set KGEN_CACHE to another folder"
        ) from error


def weights_fingerprint(encoder: Encoder) -> str:
    """A hash of the bytes of all weights, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for weight in encoder.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).data if array.size and array.ndim else array.tobytes())
    return digest.hexdigest()


def _key(encoder: Encoder, texts: Sequence[str]) -> str:
    cls = type(encoder)
    made_by = {
        "format": FORMAT,
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "config": encoder.config,
        "dtype": encoder.dtype_policy.name,
        "backend": keras.backend.backend(),
        "weights": weights_fingerprint(encoder),
    }
    digest = hashlib.blake2b(json.dumps(made_by, sort_keys=True).encode(), digest_size=16)
    for batch in _batches(texts):
        digest.update(json.dumps(batch).encode())
        for name, array in sorted(encoder.tokenize(batch).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _open(folder: Path, encoder: Encoder, texts: Sequence[str]) -> ConditionCache | None:
    """The cache in `folder`, if it is whole and holds what the encoder makes today."""
    try:
        cache = ConditionCache(folder)
        ends = [texts[0], texts[-1]]
        stored = cache.lookup(ends)
    except (OSError, EOFError, ValueError, DataError):
        return None
    made = encoder(encoder.tokenize(ends))
    same = (np.allclose(stored[name], _float32(made[name]), rtol=1e-2, atol=1e-2) for name in NAMES)
    return cache if all(same) else None


def _write(folder: Path, encoder: Encoder, texts: Sequence[str]) -> None:
    model = CompiledEncoder(encoder)
    arrays: dict[str, np.memmap[Any, Any]] = {}
    done = 0
    for batch in _batches(texts):
        filled = [*batch, *[""] * (BATCH - len(batch))]  # one shape: one program
        condition = model.predict_on_batch(encoder.tokenize(filled))
        for name in NAMES:
            rows = _float32(condition[name])[: len(batch)]
            if name not in arrays:
                arrays[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy", mode="w+", dtype=np.float32, shape=(len(texts), *rows.shape[1:])
                )
            arrays[name][done : done + len(batch)] = rows
        done += len(batch)
    for array in arrays.values():
        array.flush()
    with (folder / "captions.json").open("w", encoding="utf-8") as file:
        json.dump(list(texts), file)
        file.flush()
        os.fsync(file.fileno())


class CompiledEncoder(keras.Model):  # type: ignore[misc]
    """Compiles an encoder."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(autocast=False)
        self.encoder = encoder
        self.built = True
        self.compile(jit_compile=compile_sampling())

    def call(self, tokens: dict[str, Any]) -> dict[str, Any]:
        return self.encoder(tokens)  # type: ignore[no-any-return]


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    return (list(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH))


def _float32(array: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(array)).astype(np.float32)


def _remove_abandoned(cache_dir: Path) -> None:
    """Deletes what a killed process left half-written."""
    for path in cache_dir.glob(".conditions-*"):
        if time.time() - path.stat().st_mtime > ABANDONED_AFTER:
            shutil.rmtree(path, ignore_errors=True)
