"""Writes the same captioned images for each dataset of image files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tf_messages import example


def write_files(folder: Path, images: Sequence[bytes], captions: Sequence[str]) -> None:
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        (folder / f"{number:02}.png").write_bytes(image)
        (folder / f"{number:02}.txt").write_text(caption)


def write_tar(folder: Path, images: Sequence[bytes], captions: Sequence[str]) -> None:
    with tarfile.open(folder / "0.tar", "w") as archive:
        for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
            for name, data in ((f"{number:02}.png", image), (f"{number:02}.txt", caption.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def _table(images: Sequence[bytes], captions: Sequence[str]) -> Any:
    stored = [{"bytes": image, "path": None} for image in images]
    return pytest.importorskip("pyarrow").table({"image": stored, "text": list(captions)})


def write_parquet(folder: Path, images: Sequence[bytes], captions: Sequence[str]) -> None:
    pytest.importorskip("pyarrow.parquet").write_table(_table(images, captions), folder / "0.parquet")


def write_arrow(folder: Path, images: Sequence[bytes], captions: Sequence[str]) -> None:
    pa, table = pytest.importorskip("pyarrow"), _table(images, captions)
    with pa.OSFile(str(folder / "0.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "0.arrow"}]}))


def write_array_record(folder: Path, images: Sequence[bytes], captions: Sequence[str]) -> None:
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(folder / "0.array_record"), "group_size:1")
    for image, caption in zip(images, captions, strict=True):
        writer.write(example({"image": image, "caption": caption.encode()}))
    writer.close()


SOURCES: dict[str, Callable[[Path, Sequence[bytes], Sequence[str]], None]] = {
    "imagefolder": write_files,
    "webdataset": write_tar,
    "parquet": write_parquet,
    "hf": write_arrow,
    "array_record": write_array_record,
}
"""Functions that write images and captions to a folder, by the name of the dataset that reads it."""
