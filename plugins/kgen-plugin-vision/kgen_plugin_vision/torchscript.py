"""Reads the tensors of TorchScript files without PyTorch, and without running code from the file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kgen_plugin_vision.torch_file import DAMAGES, TensorUnpickler, TensorView


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive from ``torch.jit.save``, in its format since 2020.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            return False
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, np.ndarray]:
    """Reads the parameters and buffers of a scripted module: name -> array, with the names of its state dict.

    The archive holds the module's attributes as a pickle (``data.pkl``), whose tensors are views of the files in
    ``data/``, and its code as text, which is not read.

    Args:
        path: File from ``torch.jit.save``.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged, or holds anything but a module.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            module, storages = _read(archive)
            return {name: view.of(storages) for name, view in _views(module)}
    except DAMAGES as error:
        raise ValueError(f"{path} is not a TorchScript file: {error}") from error


class _Module:
    """A module's attributes: tensors, other modules, and plain values."""

    attributes: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = dict(state)


class _ModuleUnpickler(TensorUnpickler):
    """Unpickles the modules and typed lists of TorchScript, beside the tensors of a state dict, and rejects others."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch.jit._pickle" and (name == "restore_type_tag" or name.startswith("build_")):
            return _untyped
        return super().find_class(module, name)


def _untyped(value: Any, *types: Any) -> Any:
    """A list or dict, from whose pickle the type of its items is dropped."""
    return value


def _read(archive: zipfile.ZipFile) -> tuple[_Module, dict[str, np.ndarray]]:
    pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
    unpickler = _ModuleUnpickler(_opened(archive, pickled))
    module = unpickler.load()
    if not isinstance(module, _Module):
        raise ValueError("it does not hold a module")
    root = pickled.removesuffix("data.pkl")
    files = {key: _opened(archive, f"{root}data/{key}") for key in unpickler.types}
    return module, {key: np.frombuffer(file.read(), unpickler.types[key]) for key, file in files.items()}


def _opened(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its {name} is compressed, but PyTorch compresses nothing but code")
    return archive.open(name)


def _views(module: _Module, prefix: str = "") -> Iterator[tuple[str, TensorView]]:
    for name, value in module.attributes.items():
        if isinstance(value, TensorView):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _views(value, f"{prefix}{name}.")
