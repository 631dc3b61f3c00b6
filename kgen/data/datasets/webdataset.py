"""Captioned images in tar archives, in the convention of WebDataset."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kgen.data.datasets.shards.images import ShardImages
from kgen.data.datasets.shards.listing import Listing
from kgen.data.datasets.shards.paths import Kind
from kgen.data.datasets.shards.samples import read_samples
from kgen.data.encoded import Buckets
from kgen.data.encoded.captions import DEFAULT_TEMPLATE
from kgen.data.images import Resize
from kgen.data.problems import OnError

_COMPRESSED = re.compile(r".*\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4|Z))", re.IGNORECASE)
_UNPACK = {"gz": "gunzip", "bz2": "bunzip2", "xz": "unxz", "zst": "unzstd", "lz4": "unlz4", "Z": "uncompress"}


def _advice(name: str) -> str | None:
    if not _COMPRESSED.fullmatch(name):
        return None
    command = _UNPACK.get(name.rpartition(".")[2], "gunzip")
    return (
        "a compressed archive has no random access to its images, which are compressed themselves. Decompress the "
        f"shards: {command} *.{name.rpartition('.')[2]}"
    )


class WebDataset(ShardImages):
    """Images in tar archives ("shards") on a local disk, in the convention of WebDataset: 0001.jpg beside 0001.txt.

    The name of a file up to its first dot is the key of its sample. A sample has one image, and captions in ``KEY.txt``
    or ``KEY.caption`` (one per line) or ``KEY.json``. Its files need not be neighbors. If no sample has captions, the
    class in ``KEY.cls`` is the caption, and also the label.

    Images are read by their offset, so that shuffling and an exact resume work as for single files. The first start
    reads the headers and captions of all shards, which kgen's cache remembers. Later starts read only the shards whose
    size or times have changed. At each start, up to 1,000 images that were not read before are checked. If there are
    more, a damaged one is found when training needs it; ``kgen data check`` reads them all.

    A split is named by a folder, or by a word in the name of a shard: ``train-0001.tar``, ``val/0001.tar``. Shards of
    ``train`` are for training; shards of ``validation``, ``valid``, ``val``, ``dev`` and ``test`` are for validation.
    If a pattern chooses only shards of one split, they are for training.

    Args:
        path: A folder of .tar files, one such file, or a pattern such as "shards/train-{0000..0012}.tar" or "*.tar".
        caption_key: Key of the caption in JSON files, which are then read before texts; null: "text", "caption",
            "captions", "description", "prompt", "title" or "comment".
        template: Caption with {label} in place of the class, if there are no captions. Without {label}, it is the
            caption of all images.

    Raises:
        DataError: there is nothing to train on; the names of splits are ambiguous; shards are compressed; there is a
            problem that is not to be skipped; an option is wrong.
    """

    owner = "webdataset"
    kind = Kind("webdataset", ".tar", re.compile(r".*\.tar", re.IGNORECASE), _advice)
    separator = "/"
    caption_advice = "A sample must have KEY.txt, KEY.caption, KEY.json with a caption, or KEY.cls"

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
        self.caption_key = caption_key
        self.draw_captions = draw_captions
        self.shuffle_tags = shuffle_tags
        self.keep_tags = keep_tags
        self.template = template
        self.flip = flip
        self.validation = validation
        self.holdout = holdout
        self.on_error = on_error
        self._open_shards()

    def _list(self, path: Path) -> Listing:
        return read_samples(path, self.caption_key)

    def _describe_captions(self, found: Sequence[Listing]) -> list[str]:
        lines = super()._describe_captions(found)
        if self.caption_key is not None and not any("KEY.json" in listing.sources for listing in found):
            lines.append("the option caption_key is not used: only JSON files need it")
        return lines

    def _read(self, number: int, place: int, size: int) -> bytes:
        with self._path(number).open("rb") as file:  # it is opened each time, so that threads can read at once
            self._check_shard(number, os.fstat(file.fileno()))
            file.seek(place)
            return file.read(size)
