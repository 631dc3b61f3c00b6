"""Split folders, which divide images into training and validation images, as in most published datasets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kgen.contracts.dataset import Split
from kgen.data.datasets.folder.files import parent, some_names
from kgen.errors import DataError

_END = r"([-_ ]?(set|split|images?|imgs?|data))?([-_ ]?\d{1,4})?"  # COCO's is "train2017"
_TRAIN = re.compile(r"(train|training|restval)" + _END, re.IGNORECASE)
_VALIDATION = re.compile(r"(validation|valid|val|dev|eval|test|testing)" + _END, re.IGNORECASE)


def split_named(name: str) -> Split | None:
    """The split of a folder name: "train" for "Training" or "train2017", "validation" for "val", "dev" or "test"."""
    if _TRAIN.fullmatch(name):
        return "train"
    return "validation" if _VALIDATION.fullmatch(name) else None


@dataclass(frozen=True)
class Divisions:
    """The folders of the splits.

    Attributes:
        folders: The split folders, with their splits; empty: all images are for training.
        depth: Number of folders above a split folder.
    """

    folders: dict[str, Split]
    depth: int = 0

    def of(self, file: str) -> Split | None:
        """The split of an image; None for an image outside of the split folders."""
        if not self.folders:
            return "train"
        return self.folders.get("/".join(file.split("/")[: self.depth + 1]))

    def inside(self, file: str) -> str:
        """The path of an image's folder below its split folder, or below the root."""
        return parent("/".join(file.split("/")[self.depth + 1 :]) if self.folders else file)


def find_divisions(images: Sequence[str], root: str) -> Divisions:
    """Looks for split folders at or above the first level with more than one folder.

    Raises:
        DataError: there are only validation images; or folders at another level have names of splits, so that images of
            a test set would be used for training.
    """
    paths = [folder.split("/") if folder else [] for folder in dict.fromkeys(map(parent, images))]
    for depth in range(max(map(len, paths))):
        names = {path[depth] for path in paths if len(path) > depth}
        splits = {name: split for name in names if (split := split_named(name))}
        if splits:
            _check(splits, names, root)
            return _divisions(paths, depth, splits, root)
        if len({tuple(path[: depth + 1]) for path in paths}) > 1:
            break
    _check_rest(paths, 0, root)
    return Divisions({})


def _divisions(paths: Sequence[Sequence[str]], depth: int, splits: dict[str, Split], root: str) -> Divisions:
    _check_rest(paths, depth + 1, root)
    before = next(path[:depth] for path in paths if len(path) > depth)
    return Divisions({"/".join([*before, name]): split for name, split in sorted(splits.items())}, depth)


def _check(splits: dict[str, Split], names: set[str], root: str) -> None:
    """Raises DataError if there are no training images, or if the names are ambiguous."""
    others = names - splits.keys()
    if others and len(set(splits.values())) < 2:
        raise DataError(
            f"imagefolder: {root} holds {some_names(splits)} beside {some_names(others, 1)}: is that a split? If it "
            "is, move the others into a folder 'train'. If it is a folder like the others: split_folders: false"
        )
    if "train" not in splits.values():
        raise DataError(
            f"imagefolder: {root} holds only validation images, in {some_names(splits)}. To train on them, give that "
            "folder as path, or set split_folders: false"
        )


def _check_rest(paths: Sequence[Sequence[str]], depth: int, root: str) -> None:
    """Raises DataError for nested folders that have names of splits."""
    for path in paths:
        for place in range(depth, len(path)):
            if split_named(path[place]) == "validation":
                name = "/".join(path[: place + 1])
                raise DataError(
                    f"imagefolder: {root}: is {name} a split? Split folders must be the outermost ones, as in "
                    "train/cat and test/cat. If it is a folder like the others: split_folders: false"
                )
