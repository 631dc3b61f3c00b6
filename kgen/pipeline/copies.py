"""Saves and copies a pipeline as a folder of files, because Keras's own format would lose parts of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kgen.errors import ConfigError
from kgen.parts.saving import Assembled, restore, save

KERAS_FILES = (".keras", ".h5", ".hdf5")
"""Suffixes of Keras's own files."""

Packed = tuple[type[Any], dict[str, bytes], tuple[type[Any], ...]]
"""The class of a pipeline, the files of a saved pipeline by name, and the classes of its parts."""


class SavedInFolders:
    """Implements the methods of Keras's models that save and copy them, for pipelines."""

    def save(self: Any, path: str | Path, **options: Any) -> None:
        """Writes the pipeline to the folder `path` like `kgen.save`; `kgen.load` reads it.

        Raises:
            ConfigError: `path` is the name of a Keras file, there are options of Keras's `save`, or the folder contains
                other files.
        """
        if options or Path(path).suffix in KERAS_FILES:
            raise ConfigError(
                f"a pipeline is saved in a folder, not in a file of Keras such as {path}: call save('{Path(path).stem}'"
                "), then kgen.load; 'kgen run' writes checkpoints during training"
            )
        save(self, path)

    def __reduce__(self: Any) -> Any:
        """Supports `copy.deepcopy` and `pickle` by saving and loading, and therefore without the optimizer."""
        return pack(self)

    def get_config(self) -> dict[str, Any]:
        """Raises ConfigError, because Keras would save neither options nor vocabularies of the parts."""
        raise ConfigError(
            "Keras can neither write a pipeline in its own format nor clone it: call pipeline.save(folder) and "
            "kgen.load(folder), or copy.deepcopy(pipeline)"
        )


def pack(pipeline: Assembled) -> tuple[Callable[..., Any], Packed]:
    """The return value of `Pipeline.__reduce__`: a function that makes a pipeline, and the files that `save` writes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save(pipeline, folder)
        files = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
        parts = (*pipeline.encoder.parts(), pipeline.encoder, pipeline.generator, pipeline.decoder)
        empty = {f"{f.relative_to(folder)}/": b"" for f in folder.rglob("*") if f.is_dir()}
    return unpack, (type(pipeline), {**empty, **files}, tuple(type(part) for part in parts))


def unpack(make: type[Any], files: dict[str, bytes], custom: tuple[type[Any], ...]) -> Any:
    """Makes a pipeline of the class `make` from the files of `pack`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        for name, content in files.items():
            path = folder / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return restore(make, folder, custom)
