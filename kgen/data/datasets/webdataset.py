"""Captioned images in tar archives, in the convention of WebDataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from kgen.contracts.dataset import Problem
from kgen.data.datasets.folder.files import describe_kinds, escaped
from kgen.data.datasets.shards.memory import recall, remember
from kgen.data.datasets.shards.places import Kind, find_shards, split_shards
from kgen.data.datasets.shards.samples import CAPTIONS, Samples, read_samples
from kgen.data.encoded import EncodedImages, Entries, Stamp
from kgen.data.encoded.scan import scan
from kgen.data.images import Resize
from kgen.data.problems import OnError
from kgen.errors import DataError

_COMPRESSED = re.compile(r".*\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4|Z))", re.IGNORECASE)
_UNPACK = {"gz": "gunzip", "bz2": "bunzip2", "xz": "unxz", "zst": "unzstd", "lz4": "unlz4", "Z": "uncompress"}


def _advice(name: str) -> str | None:
    if not _COMPRESSED.fullmatch(name):
        return None
    command = _UNPACK.get(name.rpartition(".")[2], "gunzip")
    return (
        "in a compressed archive, no image can be read without all those before it, and images are compressed already. "
        f"Decompress the shards: {command} *.{name.rpartition('.')[2]}"
    )


KIND = Kind("webdataset", ".tar", re.compile(r".*\.tar", re.IGNORECASE), _advice)


class WebDataset(EncodedImages):
    """Images in tar archives ("shards") on a local disk, in the convention of WebDataset: 0001.jpg beside 0001.txt.

    The name of a file up to its first dot is the key of its sample. A sample has one image, and captions in ``KEY.txt``
    or ``KEY.caption`` (one per line) or ``KEY.json``. If no sample has captions, the class in ``KEY.cls`` is the
    caption, and also the label. An image with several captions makes several examples.

    Images are read by their offset, so that shuffling and an exact resume work as for single files. The first start
    reads the headers and captions of all shards; kgen's cache remembers them by the size and times of each shard.
    `EncodedImages` says when damaged images are found.

    Words in the names of shards or folders are splits: ``train-0001.tar``, ``val/0001.tar``. Those of ``train`` are for
    training, those of ``validation``, ``valid``, ``val``, ``dev`` and ``test`` for validation. If a pattern chooses
    shards of one split only, they are for training.

    Args:
        path: A folder of .tar files, one such file, or a pattern such as "shards/train-{0000..0012}.tar" or "*.tar".
        size: Height and width of the images, in pixels.
        resize: How images become square: "crop" takes the middle, "pad" adds background, "stretch" distorts them.
        channels: Number of channels: 3, or 1 for gray.
        background: Color behind transparent parts, and around padded images.
        caption_key: Key of the caption in JSON files; null: "text", "caption", "captions", "description", "prompt",
            "title" or "comment".
        flip: Whether every training image is also used mirrored.
        validation: Share of the training images that is used for validation, if no shard is of a validation split.
        holdout: Captions to keep out of training and validation; they form the split "holdout".
        on_error: What to do about damaged shards and images, and missing captions: "refuse" to train, or "skip" them.

    Raises:
        DataError: there is nothing to train on; the names of splits are ambiguous; shards are compressed; there is a
            problem that is not to be skipped; an option is wrong.
    """

    owner = "webdataset"

    def __init__(
        self,
        *,
        path: Annotated[str, Field(min_length=1)],
        size: Annotated[int, Field(ge=4, le=4096)] = 64,
        resize: Resize = "crop",
        channels: Literal[1, 3] = 3,
        background: str = "white",
        caption_key: str | None = None,
        flip: bool = False,
        validation: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        holdout: tuple[str, ...] = (),
        on_error: OnError = "refuse",
    ) -> None:
        self.path = path
        self.size = size
        self.resize = resize
        self.channels = channels
        self.background = background
        self.caption_key = caption_key
        self.flip = flip
        self.validation = validation
        self.holdout = holdout
        self.on_error = on_error
        shards = find_shards(path, KIND)
        splits = split_shards(shards, KIND)
        self._root = shards.root
        self._shards = shards.names
        self._times: list[Stamp | None] = [None] * len(shards.names)
        found = scan(range(len(shards.names)), self._index, f"{self.owner} {path}", chunk=1, unit="shards")
        self._members: dict[str, tuple[int, int, int]] = {}
        entries: Entries = {"train": [], "validation": []}
        problems = [*shards.problems]
        labels: dict[str, str] = {}
        by_class = self._by_class(found)
        for number, (shard, samples) in enumerate(zip(shards.names, found, strict=True)):
            problems += [Problem(f"{shard}/{key}" if key else shard, escaped(why)) for key, why in samples.problems]
            for image, offset, length, captions, label, reason in _rows(samples):
                name = f"{shard}/{image}"
                if by_class:
                    captions, reason = [label] if label else [], "it has no class"
                    labels[name] = label
                if not captions:
                    problems.append(Problem(name, reason))
                    continue
                self._members[name] = (number, offset, length)
                entries[splits[shard]] += [(name, caption) for caption in captions]
        self._open(entries, problems=problems, notes=self._said(found, entries, by_class), labels=labels)

    def _encoded(self, name: str) -> bytes:
        number, offset, size = self._members[name]
        seen = self._times[number]
        with (self._root / self._shards[number]).open("rb") as file:  # no handle is kept: threads and processes read
            if seen is None or Stamp.of(os.fstat(file.fileno()))[:2] != seen[:2]:
                raise OSError("its shard has changed since it was opened")
            file.seek(offset)
            return file.read(size)

    def _stamp(self, name: str) -> Stamp:
        number, _, size = self._members[name]
        stamp = self._times[number]
        if stamp is None:
            raise FileNotFoundError(self._shards[number])
        return stamp._replace(size=size)

    def _where(self, name: str) -> str:
        return str(self._root / name)

    def _index(self, number: int) -> Samples:
        """The samples of a shard, from kgen's cache if it is as it was."""
        path = self._root / self._shards[number]
        options = {"caption_key": self.caption_key}
        try:
            stamp = self._times[number] = Stamp.of(path.stat())
            if (stored := recall(path, stamp, options)) is not None:
                return Samples(**stored)
            samples = read_samples(path, self.caption_key)
        except OSError as error:
            return Samples(problems=[("", f"it cannot be read: {error.strerror or error}")])
        remember(path, stamp, options, samples.plain())
        return samples

    def _by_class(self, found: Sequence[Samples]) -> bool:
        """Whether classes are the captions. Raises DataError if there are images, but neither."""
        if any(captions for samples in found for captions in samples.captions):
            if all(samples.boxes for samples in found):
                raise DataError(
                    f"{self.owner}: the texts in {self.path} hold numbers of boxes, like YOLO's labels, and no captions"
                )
            return False
        if any(label for samples in found for label in samples.labels):
            return True
        images = [samples for samples in found if samples.names]
        if not images:
            return False
        raise DataError(
            f"{self.owner}: nothing in {self.path} says what the images show ({images[0].names[0]}: "
            f"{images[0].reasons[0]}). A sample must have KEY.txt, KEY.caption, KEY.json with a "
            f"'{self.caption_key or 'caption'}', or KEY.cls"
        )

    def _said(self, found: Sequence[Samples], entries: Entries, by_class: bool) -> list[str]:
        """Lines that say how the shards were read."""
        kinds = [kind for kind in CAPTIONS if any(kind in samples.kinds for samples in found)]
        source = "the classes in KEY.cls" if by_class else " and ".join(f"KEY.{kind}" for kind in kinds)
        many = f"{len(found)} shards" if len(found) != 1 else "1 shard"
        lines = [f"{sum(len(samples.names) for samples in found):,} images in {many}; captions are from {source}"]
        if several := sum(len(captions) > 1 for samples in found for captions in samples.captions):
            lines.append(f"each line of a text file is a caption: {several:,} of the images have several")
        if left_out := sum(samples.translations for samples in found):
            lines.append(f"{left_out} lines such as 'de.utf8=...' were left out, as translations of the first")
        if not by_class and any(label for samples in found for label in samples.labels):
            lines.append("the classes in KEY.cls are not used, because there are captions")
        if entries["validation"]:
            train, validation = (len({name for name, _ in entries[split]}) for split in ("train", "validation"))
            lines.append(f"there are {train:,} images for training, and {validation:,} for validation")
        others: dict[str, tuple[int, str]] = {}
        for samples in found:
            for kind, (count, example) in samples.others.items():
                before, first = others.get(kind, (0, example))
                others[kind] = (before + count, first)
        if others:
            lines.append(f"files that kgen does not read: {describe_kinds(others)}")
        return [f"{self.owner} {self.path}: {line}" for line in lines]


def _rows(samples: Samples) -> Iterator[tuple[str, int, int, list[str], str, str]]:
    """Name, offset, size, captions, label and reason of each image."""
    columns = (samples.names, samples.offsets, samples.sizes, samples.captions, samples.labels, samples.reasons)
    return zip(*columns, strict=True)
