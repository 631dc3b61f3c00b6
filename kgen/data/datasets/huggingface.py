"""Captioned images in datasets of Hugging Face's package `datasets`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kgen.contracts.dataset import Split
from kgen.data.datasets.folder.divisions import split_named
from kgen.data.datasets.table import StoredTable, TableImages, pyarrow
from kgen.data.encoded import Buckets
from kgen.data.encoded.captions import DEFAULT_TEMPLATE
from kgen.data.images import Resize
from kgen.data.problems import OnError
from kgen.errors import DataError
from kgen.plugins.faults import reason

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""A name on the Hugging Face Hub: "user/name", or "name" for some old ones."""

DICT, STATE = "dataset_dict.json", "state.json"
"""The files that identify a saved `DatasetDict`, and a saved `Dataset`."""

Files = dict[str, tuple[Path, Split]]
"""The path and the split of each file, by its name."""


class HuggingFace(TableImages):
    """Images in a dataset of the Hugging Face Hub, or in one that the package datasets saved with ``save_to_disk``.

    A folder needs only pyarrow: ``pip install 'kgen-core[parquet]'``. A dataset of the Hub needs the package datasets,
    which downloads it into its own cache: ``pip install 'kgen-core[hf]'``.

    The dataset `parquet` describes the columns. In a saved `DatasetDict`, the split "train" is for training; splits
    named validation, test and the like are for validation. Each image is read alone, in any order.

    A start reads the captions and labels, and checks up to 1,000 images that were not read before. If there are more, a
    damaged one is found when training needs it; ``kgen data check`` reads them all.

    Args:
        path: The folder, or a name on the Hub, such as "user/name".

    Raises:
        DataError: a package is not installed; a file is damaged, or was changed while it was used; the dataset cannot
            be downloaded; there is nothing to train on; a column is missing or ambiguous; there is a problem that is
            not to be skipped.
    """

    owner = "hf"

    def __init__(
        self,
        *,
        path: Annotated[str, Field(min_length=1)],
        size: Annotated[int, Field(ge=4, le=4096)] = 64,
        resize: Resize = "crop",
        buckets: Buckets | None = None,
        crops: Annotated[int, Field(ge=1, le=16)] = 1,
        channels: Literal[1, 3] = 3,
        background: str = "white",
        image_key: str | None = None,
        caption_key: str | None = None,
        draw_captions: bool = False,
        shuffle_tags: bool = False,
        keep_tags: Annotated[int, Field(ge=0, le=1000)] = 0,
        template: Annotated[str, Field(min_length=1)] = DEFAULT_TEMPLATE,
        flip: bool = False,
        validation: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        holdout: tuple[str, ...] = (),
        on_error: OnError = "refuse",
    ) -> None:
        self.path = path
        self.size = size
        self.resize = resize
        self.buckets = buckets
        self.crops = crops
        self.channels = channels
        self.background = background
        self.image_key = image_key
        self.caption_key = caption_key
        self.draw_captions = draw_captions
        self.shuffle_tags = shuffle_tags
        self.keep_tags = keep_tags
        self.template = template
        self.flip = flip
        self.validation = validation
        self.holdout = holdout
        self.on_error = on_error
        pyarrow(self.owner)
        folder = Path(path).expanduser()
        self._open_tables(saved(folder) if folder.exists() or not HUB_NAME.fullmatch(path) else downloaded(path))

    def _open_table(self, path: Path, name: str) -> StoredTable:
        from kgen.data.datasets.table.arrow_file import ArrowFile

        return ArrowFile(path, name, self.owner)


def saved(folder: Path) -> Files:
    """The files of a folder that `save_to_disk` wrote. Raises DataError if it did not write the folder."""
    if (folder / STATE).is_file():
        return {name: (folder / name, "train") for name in _data_files(folder)}
    if not (folder / DICT).is_file():
        raise DataError(f"hf: {folder} {_advice(folder)}")
    names = _read(folder / DICT).get("splits")
    if not isinstance(names, list) or not names:
        raise DataError(f"hf: {folder / DICT} names no splits")
    splits = _splits([str(name) for name in names], str(folder))
    return {
        f"{name}/{file}": (folder / name / file, split)
        for name, split in splits.items()
        for file in _data_files(folder / name)
    }


def downloaded(name: str) -> Files:
    """The files of a dataset of the Hub, which the package datasets downloads. Raises DataError."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"hf: there is no folder {name}. If it is a name on the Hub, the package datasets can download it, but is "
            f"not installed ({error}): pip install 'kgen-core[hf]'. Or download its files: huggingface-cli download "
            f"{name} --repo-type dataset --local-dir FOLDER. If they are .parquet files, use the dataset parquet"
        ) from error
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # network errors, unknown names and damaged files raise many types
        raise DataError(
            f"hf: there is no folder {name}, and the package datasets cannot load it from the Hub: {reason(error)}"
        ) from error
    return _cached(found, name)


def _cached(found: Mapping[str, Any], name: str) -> Files:
    """The files of a `DatasetDict` in the cache of the package datasets."""
    files: Files = {}
    for key, split in _splits(list(found), name).items():
        stored = [Path(file["filename"]) for file in found[key].cache_files]
        if not stored:
            raise DataError(f"hf: {name} is not in the cache of the package datasets: save it with save_to_disk")
        files |= {f"{key}/{path.name}": (path, split) for path in stored}
    return files


def _splits(names: Sequence[str], place: str) -> dict[str, Split]:
    """The split in kgen of each split of the dataset. Raises DataError if there is nothing to train on."""
    if len(names) == 1:
        return {names[0]: "train"}
    splits = {name: split for name in names if (split := split_named(name))}
    if unknown := [name for name in names if name not in splits]:
        raise DataError(
            f"hf: {place} has the splits {', '.join(names)}, of which kgen does not know '{unknown[0]}'. Give the "
            "folder of one split as path, after save_to_disk, or rename it"
        )
    if "train" not in splits.values():
        raise DataError(f"hf: {place} has no split 'train', but {', '.join(names)}. Give the folder of one as path")
    return splits


def _data_files(folder: Path) -> list[str]:
    """The names of the Arrow files of a saved `Dataset`."""
    state = _read(folder / STATE)
    try:
        names = [str(file["filename"]) for file in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"hf: {folder / STATE} does not name the files of the dataset") from error
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"hf: {folder} holds an order of rows beside its files: save dataset.flatten_indices() instead")
    if outside := [name for name in names if Path(name).name != name]:
        raise DataError(f"hf: {folder / STATE} names {outside[0]}, which is outside the folder")
    return names


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"hf: {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"hf: {path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"hf: {path} is not a JSON object")
    return found


def _advice(folder: Path) -> str:
    """Says why a path is not a saved dataset, and what it may be."""
    if not folder.is_dir():
        return "is not a folder" if folder.exists() else "does not exist"
    what = f"was not saved by save_to_disk of the package datasets: it holds neither {DICT} nor {STATE}"
    if below := sorted([*folder.glob(f"*/{DICT}"), *folder.glob(f"*/{STATE}")]):
        return f"{what}, but {below[0].parent} does: give it as path"
    if next(folder.rglob("*.parquet"), None):
        return f"{what}. It holds Parquet files: data: {{name: parquet, path: '{folder}'}}"
    return what
