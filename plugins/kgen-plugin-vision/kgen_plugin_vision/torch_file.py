"""Reads PyTorch files of tensors without PyTorch, and without running code from the file."""

from __future__ import annotations

import math
import os
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

TYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
}


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Reads a state dict: name -> array.

    Args:
        path: File from ``torch.save``, in its present format (a zip archive) or in that of before 2020.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file holds anything but a dict of tensors.
    """
    try:
        with path.open("rb") as file:
            found = _read_archive(file) if zipfile.is_zipfile(file) else _read_legacy(file)
    except DAMAGES as error:
        raise ValueError(f"{path} is not a file of PyTorch tensors: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, np.ndarray) for value in found.values()):
        raise ValueError(f"{path} does not hold a dict of tensors")
    return dict(found)


DAMAGES = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, StopIteration),
    *(TypeError, AttributeError, ValueError, ArithmeticError, MemoryError, RuntimeError),
)
"""Exceptions of pickle, zipfile and numpy for files that are damaged or malicious."""


@dataclass(frozen=True)
class TensorView:
    """A pickled tensor: its storage, and its place in it."""

    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        """Returns the tensor's values.

        Raises:
            ValueError: The tensor is not inside its storage, or is larger than it. A file may claim this, and numpy
                would then read memory outside the storage.
        """
        if any(type(number) is not int or number < 0 for number in (self.offset, *self.shape, *self.strides)):
            raise ValueError("a tensor has a shape, strides or an offset that are not non-negative integers")
        storage = storages[self.key][self.offset :]
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        count = math.prod(self.shape)
        if count > len(storage) or (count and last >= len(storage)):
            raise ValueError("a tensor is larger than its storage")
        strides = tuple(stride * storage.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(storage, self.shape, strides).copy()


class TensorUnpickler(pickle.Unpickler):
    """Unpickles the few types of a state dict, and rejects all others."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self.types: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in TYPES:
            return TYPES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")

    def persistent_load(self, saved: Any) -> str:
        _, kind, key, *_ = saved
        self.types[key] = np.dtype(kind)
        return str(key)


def _rebuild(key: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *others: Any) -> TensorView:
    return TensorView(key, offset, tuple(shape), tuple(strides))


def _read_legacy(file: IO[bytes]) -> Any:
    file.seek(0)
    for _ in range(3):  # a magic number, the version, the machine
        TensorUnpickler(file).load()
    pickled = TensorUnpickler(file)
    found = pickled.load()
    storages = {}
    for key in TensorUnpickler(file).load():
        size = int.from_bytes(file.read(8), "little") * pickled.types[key].itemsize
        if size > os.fstat(file.fileno()).st_size:
            raise ValueError("a storage is larger than the file")
        storages[key] = np.frombuffer(file.read(size), pickled.types[key])
    return _resolved(found, storages)


def _read_archive(file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed, but PyTorch does not compress its files")
        root = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
        with archive.open(f"{root}data.pkl") as inner:
            pickled = TensorUnpickler(inner)
            found = pickled.load()
        storages = {key: np.frombuffer(archive.read(f"{root}data/{key}"), kind) for key, kind in pickled.types.items()}
    return _resolved(found, storages)


def _resolved(found: Any, storages: dict[str, np.ndarray]) -> Any:
    if not isinstance(found, dict):
        return found
    return {name: value.of(storages) if isinstance(value, TensorView) else value for name, value in found.items()}
