"""Captions from a file beside each image: NAME.txt, NAME.caption, or NAME.json, as img2dataset writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from kgen.contracts.dataset import Problem
from kgen.data.datasets.folder.files import Files, normalized, parent, suffix
from kgen.data.datasets.folder.rows import read_text
from kgen.data.datasets.folder.tables import Captions, Entry
from kgen.data.encoded.captions import TextError, are_boxes, captions_in_json, captions_in_text, key_of_caption
from kgen.errors import DataError

SUFFIXES = (".txt", ".caption", ".json")
"""Suffixes of files with captions, in lower case. If an image has several, the first of these is read. With the option
caption_key, it is the JSON file."""


def find_sidecars(files: Files, caption_key: str | None) -> dict[str, str | None]:
    """The file with the captions of each image; None if there is no such file."""
    beside = _beside(files)
    kinds = [kind for kind in SUFFIXES if kind != ".json"]
    if caption_key is not None:
        kinds.insert(0, ".json")
    elif _holds_captions(files, beside):
        kinds.append(".json")
    return {image: next((names[kind] for kind in kinds if kind in names), None) for image, names in beside.items()}


def from_sidecars(files: Files, sidecars: Mapping[str, str | None], caption_key: str | None) -> Captions:
    """Makes an entry for every caption: each line of a text file, and each item of a list in JSON."""
    used = {name for name in sidecars.values() if name}
    kinds = sorted({suffix(name) for name in used}) or [SUFFIXES[0]]
    found = Captions("files", f"{' and '.join(f'NAME{kind}' for kind in kinds)} beside each image", used=used)
    lines = translations = 0
    boxes = True
    for image, name in sidecars.items():
        if name is None:
            missing = PurePosixPath(image).with_suffix(kinds[0]).name
            found.problems.append(Problem(image, f"there is no caption {missing} beside it"))
            continue
        try:
            captions, left_out = _read(files, name, caption_key)
        except TextError as error:
            found.problems.append(Problem(image, f"its caption {PurePosixPath(name).name} {error}"))
            continue
        found.entries += [Entry(image, caption) for caption in captions]
        lines += len(captions) > 1
        translations += left_out
        boxes = boxes and are_boxes(captions)
    if found.entries and boxes:
        raise DataError(
            f"imagefolder: {min(used)} holds numbers of boxes, like YOLO's labels, and no captions: move these files "
            "away, or read the images without captions, with captions_from: none"
        )
    if lines:
        found.notes.append(f"each line of a text file is a caption: {lines} of the images have several")
    if translations:
        found.notes.append(f"{translations} lines such as 'de.utf8=...' were left out, as translations of the first")
    found.problems += _without_image(files, used)
    return found


def _stem(name: str) -> str:
    return name[: len(name) - len(PurePosixPath(name).suffix)]


def _beside(files: Files) -> dict[str, dict[str, str]]:
    """The files with the name of each image, by suffix.

    A name may differ from that of the image in case, or in the form of accents, unless it belongs to another image.
    """
    by_name: dict[str, list[str]] = {}
    for name in files.others:
        if suffix(name) in SUFFIXES:
            by_name.setdefault(normalized(_stem(name)), []).append(name)
    stems = {_stem(image) for image in files.images}
    found: dict[str, dict[str, str]] = {}
    for image in files.images:
        names = by_name.get(normalized(_stem(image)), ())
        own = [name for name in names if _stem(name) == _stem(image)]
        found[image] = {suffix(name): name for name in (*(n for n in names if _stem(n) not in stems), *own)}
    return found


def _holds_captions(files: Files, beside: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether the JSON files beside the images hold captions: other tools keep boxes and settings in them.

    The first one that is not damaged shows it.
    """
    for name in (names[".json"] for names in beside.values() if ".json" in names):
        try:
            content = json.loads(read_text(files.root / name))
        except (ValueError, RecursionError):
            continue
        return isinstance(content, dict) and key_of_caption(content, None) is not None
    return False


def _read(files: Files, name: str, caption_key: str | None) -> tuple[list[str], int]:
    """Returns the captions of a file, and the number of translations that were left out. Raises TextError."""
    text = read_text(files.root / name)
    return (captions_in_json(text, caption_key), 0) if suffix(name) == ".json" else captions_in_text(text)


def _without_image(files: Files, used: set[str]) -> list[Problem]:
    """Returns problems for files beside images that look like captions, but have no image of the same name."""
    kinds, folders = {suffix(name) for name in used}, {parent(name) for name in files.images}
    stems = {_stem(name) for name in (*files.images, *used)}
    alone = [n for n in files.others if suffix(n) in kinds and parent(n) in folders and _stem(n) not in stems]
    return [Problem(name, "there is no image of this name beside it") for name in alone]
