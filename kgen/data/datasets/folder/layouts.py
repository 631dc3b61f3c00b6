"""Recognizes folders in formats of other tools, and says how to make them readable."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from kgen.data.datasets.folder.files import Files, describe, parent, suffix

_TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".xml", ".mat", ".xlsx", ".yaml", ".yml", ".pkl", ".npy")
_EXAMPLE = '{"file_name": "a.png", "text": "a red heart"}'


def seems_to_be(files: Files) -> str | None:
    """Advice for a folder in a known format of another tool; None if the format is not recognized."""
    for recognize in (_parquet, _arrow, _archive, _tfds, _array_record, _idx):
        if advice := recognize(files):
            return advice
    return None


def where_captions_may_be(files: Files) -> str:
    """A hint at files that could contain captions but are not read; "" if there are none."""
    names = [name for name in files.others if suffix(name) in _TABLE_SUFFIXES]
    beside = {name.rpartition(".")[0] for name in files.images}
    tables = [name for name in names if name.rpartition(".")[0] not in beside]
    if not tables:
        return ""
    likely = next((n for n in tables if re.search("caption|token|label|annot|meta|text", n, re.IGNORECASE)), tables[0])
    return (
        f"; if {likely} holds the captions, make it a metadata.csv whose first line is file_name,text, "
        "in the folder above the images"
    )


def nothing_to_read(files: Files) -> str:
    """Says why a folder has no images, and what to do."""
    if advice := seems_to_be(files):
        return advice
    if not files.others:
        return "it is empty"
    return f"it holds {describe(files.others)}: make them PNG or JPEG files"


def _with_suffix(files: Files, *suffixes: str) -> list[str]:
    return [name for name in files.others if suffix(name) in suffixes]


def _parquet(files: Files) -> str | None:
    return _hugging_face(files, ".parquet", "parquet")


def _arrow(files: Files) -> str | None:
    return _hugging_face(files, ".arrow", "hf")


def _hugging_face(files: Files, kind: str, dataset: str) -> str | None:
    names = _with_suffix(files, kind)
    if not names or files.images:
        return None
    return (
        f"{names[0]} seems to be of a dataset of Hugging Face: data: {{name: {dataset}, path: '{files.root}'}} (this "
        "needs pip install 'kgen-core[parquet]')"
    )


def _archive(files: Files) -> str | None:
    if files.images:
        return None
    unpack: dict[str, Callable[[str], str]] = {
        ".tar": lambda path: f"tar -xf '{path}' -C '{files.root}'",
        ".tgz": lambda path: f"tar -xf '{path}' -C '{files.root}'",
        ".gz": lambda path: f"tar -xf '{path}' -C '{files.root}'",
        ".zip": lambda path: f"unzip '{path}' -d '{files.root}'",
        ".7z": lambda path: f"7z x '{path}' -o'{files.root}'",
        ".rar": lambda path: f"unrar x '{path}' '{files.root}'",
    }
    archives = [name for name in _with_suffix(files, *unpack) if not name.endswith("ubyte.gz")]
    if not archives:
        return None
    many = f" (it is one of {len(archives)} archives)" if len(archives) > 1 else ""
    command = unpack[suffix(archives[0])](str(files.root / archives[0]))
    whole = f", or read tar files as they are: data: {{name: webdataset, path: '{files.root}'}}"
    return f"the images seem to be in {archives[0]}{many}. Unpack it: {command}{whole * archives[0].endswith('.tar')}"


def _tfds(files: Files) -> str | None:
    infos = [name for name in files.others if PurePosixPath(name).name == "dataset_info.json"]
    stored = [n for n in files.others if re.search(r"\.(tfrecord|array_record)", n)]
    if not infos or not stored or files.images:
        return None
    return f"it seems to be of tensorflow-datasets: data: {{name: tfds, data_dir: '{files.root / parent(infos[0])}'}}"


def _array_record(files: Files) -> str | None:
    if files.images or not any(re.search(r"\.array_?record(-\d+-of-\d+)?$", name) for name in files.others):
        return None
    return f"it seems to hold ArrayRecord files: data: {{name: array_record, path: '{files.root}'}}"


def _idx(files: Files) -> str | None:
    names = [name for name in files.others if re.search(r"idx\d-ubyte(\.gz)?$", name)]
    if not names or files.images:
        return None
    return f"it seems to hold IDX files, as MNIST does: data: {{name: idx, path: '{files.root / parent(names[0])}'}}"
