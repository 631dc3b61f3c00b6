"""Copies of a pipeline in memory, for `copy.deepcopy` and `pickle`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kgen.parts.saving import Assembled, restore, save

Packed = tuple[type[Any], dict[str, bytes], tuple[type[Any], ...]]
"""The class of a pipeline, the files of a saved pipeline by name, and the classes of its parts."""


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
