"""Frozen parts, whose outputs are cached: what determines the outputs, and when they are computed."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from kgen.backend.compiled import Compiled, Snapshot, snapshot_bytes
from kgen.contracts.dataset import Dataset
from kgen.storage.files import files_in

MAX_COPY_BYTES = 2**30
"""Largest size of weights that are copied so that they can be used while a model trains."""


def provenance(part: Any) -> dict[str, str]:
    """Everything that determines the outputs of a frozen part: class, options, precision, backend, assets, weights."""
    cls = type(part)
    return {
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "config": json.dumps(part.config, sort_keys=True),
        "dtype": part.dtype_policy.name,
        "backend": keras.backend.backend(),
        "assets": assets_fingerprint(part),
        "weights": weights_fingerprint(part),
    }


def origin(dataset: Dataset) -> dict[str, Any]:
    """Everything that determines the images and other fields of a dataset: class, options, fingerprint."""
    return {
        "dataset": f"{type(dataset).__module__}:{type(dataset).__qualname__}",
        "options": dataset.config,
        "fingerprint": dataset.fingerprint(),
    }


def assets_fingerprint(part: Any) -> str:
    """A hash of the files that the part saves as its assets, such as a vocabulary."""
    digest = hashlib.blake2b(digest_size=16)
    with tempfile.TemporaryDirectory() as folder:
        part.save_assets(folder)
        for name in files_in(Path(folder)):
            content = (Path(folder) / name).read_bytes()
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def weights_fingerprint(part: keras.layers.Layer) -> str:
    """A hash of the bytes of all weights, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for weight in part.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).data if array.size and array.ndim else array.tobytes())
    return digest.hexdigest()


class Cache(Protocol):
    """A cache of the outputs of a frozen part."""

    @property
    def written(self) -> int:
        """Number of outputs that are in the cache."""

    def __len__(self) -> int:
        """Number of all outputs."""

    def fill(self) -> None:
        """Computes the outputs that are missing."""


class Filling:
    """Decides when the caches of frozen parts are filled, and says so.

    Outputs are computed while a model trains, when it first needs them, unless

    - several devices share every batch: the programs of TensorFlow and JAX would then wait for each other; or
    - a `Snapshot` would copy more than `MAX_COPY_BYTES` (on JAX).

    Args:
        log: Receives a line for each cache.
        devices: Number of devices that share every batch of the training.
        training: Whether a training follows. Otherwise, every cache is filled at once.
    """

    def __init__(self, log: Callable[[str], None] = lambda line: None, devices: int = 1, training: bool = True) -> None:
        self.log, self.devices, self.training = log, devices, training
        self._snapshots: weakref.WeakKeyDictionary[Any, Snapshot] = weakref.WeakKeyDictionary()

    def program(self, part: Any, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The program of a function of a batch that uses the weights of a part."""
        if self._reason(part):
            made = functools.cache(lambda: Compiled(function, [part]))
            return lambda batch: made().predict_on_batch(batch)
        if part not in self._snapshots:
            self._snapshots[part] = Snapshot(part)
        return self._snapshots[part].program(function)

    def begin(self, cache: Cache, part: Any, what: str) -> None:
        """Says how much of a cache is there, and fills it now if that cannot be done while the model trains.

        Args:
            what: What the cache holds, in the plural.
        """
        reason = self._reason(part)
        if cache.written == len(cache):
            self.log(f"all {len(cache):,} {what} are cached")
            return
        when = f"now, {reason}" if reason else "when the training first needs them"
        self.log(f"{cache.written:,} of {len(cache):,} {what} are cached. The others are computed {when}")
        if reason:
            cache.fill()

    def _reason(self, part: Any) -> str:
        """Why caches must be filled before the training; "" if they need not be."""
        if not self.training:
            return "because no training follows"
        if self.devices > 1:
            return f"because {self.devices} devices share every batch"
        if (size := snapshot_bytes(part)) > MAX_COPY_BYTES:
            return f"because the training needs the memory that a copy of the weights would take ({size:,} bytes)"
        return ""
