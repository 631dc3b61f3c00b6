"""Finds the splits of files by their names and the names of their folders, as Hugging Face names them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kgen.contracts.dataset import Split
from kgen.data.datasets.folder.divisions import split_named
from kgen.data.datasets.folder.files import some_names
from kgen.errors import DataError


def split_files(names: Sequence[str], owner: str, root: str, chosen: bool) -> dict[str, Split]:
    """The split of each file. If no name contains a split, all files are for training.

    The outermost folder whose name is a split decides ("test/0000.parquet"), or else the name of the file
    ("train-00000-of-00002.parquet", "my-test.parquet").

    Args:
        names: The files, relative to the folder.
        owner: The name of the dataset, for messages.
        root: The folder, for messages.
        chosen: Whether the user named a file or gave a pattern. Files of only one split are then for training.

    Raises:
        DataError: there are only validation files; some files are in no split; several folders have splits.
    """
    found = {name: _split(name) for name in names}
    splits = {name: split for name, (split, _) in found.items() if split is not None}
    if not splits or (chosen and len(set(splits.values())) == 1 and len(splits) == len(names)):
        return dict.fromkeys(names, "train")
    if others := [name for name in names if name not in splits]:
        raise DataError(
            f"{owner}: {root}: {some_names(others)} is in no split, but {some_names(list(splits))} is. Rename the file,"
            f" such as to train-{others[0].rpartition('/')[2]}, or give a pattern as path, such as {root}/**/train*"
        )
    places = {place for _, place in found.values()}
    if len(places) > 1:
        raise DataError(
            f"{owner}: {root} holds several sets of files, in {some_names(places)}: give one of the folders as path; "
            f"or a pattern, to train on all: {root}/**/train*"
        )
    if "train" not in splits.values():
        raise DataError(
            f"{owner}: {root} holds only validation files, such as {names[0]}. To train on them, give a pattern as "
            f"path: {root}/**/*{names[0].rpartition('.')[2]}"
        )
    return splits


def _split(name: str) -> tuple[Split | None, str]:
    """The split of a file, and the folder that contains its split."""
    *folders, file = name.split("/")
    for depth, folder in enumerate(folders):
        if split := split_named(folder):
            return split, "/".join(folders[:depth])
    words = re.split(r"[^A-Za-z]+", file.rpartition(".")[0])
    splits = {split for word in words if (split := split_named(word))}
    return (splits.pop() if len(splits) == 1 else None), "/".join(folders)
