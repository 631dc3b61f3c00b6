"""Reads a folder: finds images and captions, and divides them into splits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kgen.contracts.dataset import Problem, Split
from kgen.data.datasets.folder.classes import from_classes, why_no_classes
from kgen.data.datasets.folder.divisions import Divisions, find_divisions
from kgen.data.datasets.folder.files import Files, describe, find_files, suffix
from kgen.data.datasets.folder.layouts import nothing_to_read, seems_to_be, where_captions_may_be
from kgen.data.datasets.folder.sidecars import find_sidecars, from_sidecars
from kgen.data.datasets.folder.tables import Captions, CaptionsFrom, Entry, Table, from_tables, open_tables
from kgen.data.encoded.captions import DEFAULT_TEMPLATE
from kgen.errors import DataError

NO_CAPTION = "an image"
"""The caption of all images if captions are not read, because a prompt must be a text."""


@dataclass
class Folder:
    """The content of a folder.

    Attributes:
        entries: The files of each split, each with its caption.
        problems: The problems.
        notes: Lines that say how the folder was read.
        labels: The class of each file, if the folders are classes.
    """

    entries: dict[Split, list[tuple[str, str]]]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)


def read_folder(
    path: Path,
    captions_from: CaptionsFrom = "auto",
    caption_key: str | None = None,
    template: str = DEFAULT_TEMPLATE,
    split_folders: bool = True,
) -> Folder:
    """Finds the images below `path`, and their captions in the first of these sources that exists:

    1. Tables: ``metadata.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet``, in any folder; or ``captions*.json``,
       ``.csv``, ``.txt`` (COCO, Flickr8k) if they contain a table. A row has the name of an image ("file_name") and a
       caption, or a list of captions. Names are relative to the table. If none of them exists, all folders are
       searched.
    2. Files beside the images: ``NAME.txt`` or ``NAME.caption`` with one caption per line; ``NAME.json`` with a
       "caption". With `caption_key`, ``NAME.json`` is the first of these.
    3. The image's folder, which is its class: `template`, with the name of the folder for {label}.

    An image with several captions has several entries. Folders named train, validation, val, dev or test are splits.

    Raises:
        DataError: there is no such folder, it has no images, or it is not clear what the captions are.
    """
    files = find_files(path)
    if not files.images:
        raise DataError(f"imagefolder: {path} holds no image that can be read: {nothing_to_read(files)}")
    divisions = find_divisions(files.images, str(path)) if split_folders else Divisions({})
    found = _captions(files, divisions, captions_from, caption_key, template)
    folder = Folder({"train": [], "validation": []}, [*files.problems, *found.problems], labels=found.labels)
    outside: set[str] = set()
    for file, caption, named in found.entries:
        split = named or divisions.of(file)
        if split is None:
            outside.add(file)
        else:
            folder.entries[split].append((file, caption))
    beside = " and ".join(f"{name}/" for name in divisions.folders)
    folder.problems += [Problem(name, f"it is beside {beside}, in no split") for name in sorted(outside)]
    folder.notes = _notes(files, divisions, found, folder)
    if template != DEFAULT_TEMPLATE and found.kind != "folders":
        folder.notes.append(f"imagefolder {path}: the option template is not used: only names of folders need it")
    if caption_key is not None and found.kind != "tables" and not any(suffix(name) == ".json" for name in found.used):
        folder.notes.append(
            f"imagefolder {path}: the option caption_key is not used: only tables and JSON files need it"
        )
    return folder


def _captions(
    files: Files, divisions: Divisions, captions_from: CaptionsFrom, caption_key: str | None, template: str
) -> Captions:
    """Reads the captions from the source in `captions_from`, or from the first one that exists."""
    if captions_from == "none":
        return Captions("none", "", [Entry(name, NO_CAPTION) for name in files.images])
    tables: list[Table] = open_tables(files) if captions_from in ("auto", "tables") else []
    if tables:
        return from_tables(files, tables, caption_key)
    sidecars = find_sidecars(files, caption_key) if captions_from in ("auto", "files") else {}
    count = sum(name is not None for name in sidecars.values())
    no_classes = why_no_classes(files.images, divisions)
    if captions_from == "folders" and no_classes != "":
        return from_classes(files, divisions, template)
    if captions_from == "auto" and no_classes is None:
        if 0 < count <= len(sidecars) / 2:
            example = next(name for name in sidecars.values() if name)
            raise DataError(
                f"imagefolder: {files.root} has folders that could be classes, and {count} of {len(sidecars)} images "
                f"have a text beside them, such as {example}: set captions_from: folders, or captions_from: files"
            )
        if not count:
            return from_classes(files, divisions, template)
    if count:
        return from_sidecars(files, sidecars, caption_key)
    raise DataError(_no_captions(files, captions_from, no_classes))


def _no_captions(files: Files, captions_from: CaptionsFrom, no_classes: str | None) -> str:
    """The message if there are no captions."""
    if captions_from != "auto":
        return f"imagefolder: captions_from: {captions_from}, but {files.root} has no captions there"
    why = f" ({no_classes})" if no_classes else ""
    if advice := seems_to_be(files):
        return f"imagefolder: nothing in {files.root} says what the images show{why}; {advice}"
    folders = "captions_from: folders, if the folders' names are the captions; " if no_classes else ""
    return (
        f"imagefolder: nothing in {files.root} says what the images show{why}{where_captions_may_be(files)}. Write "
        f'metadata.jsonl with a line such as {{"file_name": "{files.images[0]}", "text": "a red heart"}} for each, or '
        f"NAME.txt beside each image; or set {folders}captions_from: none, to train on images without captions"
    )


def _notes(files: Files, divisions: Divisions, found: Captions, folder: Folder) -> list[str]:
    """Lines that say how the folder was read."""
    lines = [f"captions are from {found.source}" if found.source else "captions are not read"]
    lines += found.notes
    if folder.entries["validation"]:
        train, validation = _count(folder, divisions, "train"), _count(folder, divisions, "validation")
        lines.append(f"training uses {train}, and validation uses {validation}")
    if passed := [name for name in files.others if name not in found.used]:
        lines.append(f"files that kgen does not read as images: {describe(passed)}")
    return [f"imagefolder {files.root}: {line}" for line in lines]


def _count(folder: Folder, divisions: Divisions, split: Split) -> str:
    """The number of images in a split, and the folders of the split, if there are any."""
    count = len({file for file, _ in folder.entries[split]})
    names = [f"{name}/" for name, held in divisions.folders.items() if held == split]
    return f"{count} image{'s' if count != 1 else ''}{' in ' if names else ''}{' and '.join(names)}"
