"""Lists the samples of a tar shard that follows the convention of WebDataset, with their captions.

A sample is an image with its texts. A file belongs to a sample by its name: the part before the first dot (in the last
part of the path) is the key of the sample, and the rest is the kind of the file. "0001.jpg" and "0001.txt" are an image
and its caption.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from kgen.data.datasets.folder.files import LEFT_BY_SYSTEMS, SUFFIXES, count_kinds, escaped, suffix
from kgen.data.datasets.shards.listing import Listing
from kgen.data.datasets.shards.tar import Member, TarError, members
from kgen.data.encoded.captions import TextError, are_boxes, captions_in_json, captions_in_text, decode_text

CAPTIONS = ("txt", "caption", "json")
"""Kinds of files with captions. If a sample has several, the first of these is read; with caption_key, "json"."""

LABEL = "cls"
"""The kind of files with a class."""

MAX_TEXT = 2**24
"""Largest size of a file with captions, in bytes."""

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
"""The key of a sample, and the kind of a file. A name that begins with a dot is hidden."""


@dataclass
class _Sample:
    """The files of a sample by kind, and the contents of its texts."""

    files: dict[str, Member] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    duplicate: str = ""


def read_samples(path: Path, caption_key: str | None) -> Listing:
    """Reads the headers and the texts of a shard, but no images.

    Raises:
        OSError: the shard cannot be read.
    """
    groups: dict[str, _Sample] = {}
    unread: list[str] = []
    found = Listing()
    with path.open("rb") as file:
        try:
            for member in members(file):
                name = member.name.removeprefix("./")
                if member.kind in ("folder", "other") or _is_hidden(name):
                    continue
                match = _NAME.fullmatch(name)
                if match is None or escaped(name) != name:
                    unread.append(escaped(name))
                    continue
                sample = groups.setdefault(match[1], _Sample())
                _add_file(sample, match[2].lower(), member._replace(name=name), file)
        except TarError as error:
            found.problems.append(("", f"{error}{_leave_out(groups, error.lost)}"))
    kinds: set[str] = set()
    for key, sample in groups.items():
        unread += _list_sample(found, key, sample, caption_key, kinds)
    if not groups and not found.problems:
        found.problems.append(("", "it holds no sample"))
    found.sources = [f"KEY.{kind}" for kind in sorted(kinds)]
    found.others = count_kinds(unread)
    return found


def _leave_out(groups: dict[str, _Sample], name: str) -> str:
    """Leaves out the sample of a file that was cut off, and returns a sentence about it."""
    match = _NAME.fullmatch(name.removeprefix("./"))
    if match is None or match[1] not in groups:
        return ""
    del groups[match[1]]
    return f". The sample {match[1]} is left out"


def _add_file(sample: _Sample, kind: str, member: Member, file: BinaryIO) -> None:
    """Adds a file to its sample, and reads it if it is a text."""
    if kind in sample.files:
        sample.duplicate = member.name
    sample.files[kind] = member
    if kind in (*CAPTIONS, LABEL) and member.kind == "file" and member.size <= MAX_TEXT:
        file.seek(member.offset)
        sample.texts[kind] = file.read(member.size)


def _list_sample(found: Listing, key: str, sample: _Sample, caption_key: str | None, kinds: set[str]) -> list[str]:
    """Adds a sample or a problem to `found`, and the kind of its caption to `kinds`. Returns the files it ignores."""
    images = [kind for kind in sample.files if suffix(f"a.{kind}") in SUFFIXES]
    main = [kind for kind in images if "." not in kind] or images
    if problem := _problem(sample, main):
        found.problems.append((sample.files[main[0]].name if main else key, problem))
        return []
    image = sample.files[main[0]]
    captions: list[str] = []
    reason = ""
    kinds_in_order = CAPTIONS if caption_key is None else ("json", *CAPTIONS)
    used = next((kind for kind in kinds_in_order if kind in sample.files), None)
    if used is None:
        reason = f"there is no caption {key.rpartition('/')[2]}.txt with it"
    else:
        try:
            captions, left_out = _captions(sample, used, caption_key)
            found.translations += left_out
            kinds.add(used)
        except TextError as error:
            reason = f"its caption {sample.files[used].name} {error}"
    label = _label(sample)
    found.add(image.name, image.offset, image.size, captions, label, reason)
    found.boxes = found.boxes and are_boxes(captions)
    read = {main[0], LABEL} if label and not captions else {main[0], LABEL, used}
    return [member.name for kind, member in sample.files.items() if kind not in read]


def _problem(sample: _Sample, images: list[str]) -> str | None:
    """Why a sample cannot be used; None if it can."""
    if not images:
        return f"it has no image, but {', '.join(sorted(sample.files))}"
    if sample.duplicate:
        return f"{sample.duplicate} is in the shard twice"
    if len(images) > 1:
        names = " and ".join(sample.files[kind].name for kind in images[:2])
        hint = ": a key ends at the first dot of a name" if any("." in kind for kind in images) else ""
        return f"it has two images, {names}{hint}"
    for kind in (*images, *CAPTIONS, LABEL):
        member = sample.files.get(kind)
        if member and member.kind == "link":
            return f"{member.name} is a link: write the shard with tar --dereference --hard-dereference"
        if member and member.kind == "sparse":
            return f"{member.name} is a sparse file, which is stored in parts: write the shard without tar --sparse"
    return None


def _captions(sample: _Sample, kind: str, caption_key: str | None) -> tuple[list[str], int]:
    """The captions of a sample, and the number of translations that were left out. Raises TextError."""
    name = sample.files[kind].name
    if kind not in sample.texts:
        raise TextError(f"has {sample.files[kind].size:,} bytes, more than {MAX_TEXT:,}")
    text = decode_text(sample.texts[kind], name)
    return (captions_in_json(text, caption_key), 0) if kind == "json" else captions_in_text(text)


def _label(sample: _Sample) -> str:
    """The class of a sample, a number or a name; "" if it has none."""
    try:
        text = decode_text(sample.texts.get(LABEL, b""), "")
    except TextError:
        return ""
    return " ".join(text.replace("_", " ").split())


def _is_hidden(name: str) -> bool:
    """Whether a file or one of its folders is hidden. "." and ".." in a path, as in "../images/1.png", hide nothing."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith(".") or part.lower() in LEFT_BY_SYSTEMS for part in parts)
