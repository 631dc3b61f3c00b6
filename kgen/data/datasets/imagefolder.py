"""Captioned images in a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import Field

from kgen.data.datasets.folder import CaptionsFrom, read_folder
from kgen.data.encoded import Buckets, EncodedImages, Stamp
from kgen.data.encoded.captions import DEFAULT_TEMPLATE
from kgen.data.encoded.garbage import paused_garbage_collection
from kgen.data.images import Resize
from kgen.data.problems import OnError
from kgen.errors import DataError


class ImageFolder(EncodedImages):
    """Images of many formats and modes, with captions from tables, text files or the names of folders.

    A start lists the files, and checks up to 1,000 that were not read before. If there are more, a damaged one is found
    when training needs it; ``kgen data check`` reads them all. Symbolic links are followed.
    `kgen.data.datasets.folder.read_folder` documents the sources of captions and their order. If the captions are the
    names of folders, these are also the labels.

    Outermost folders named ``train`` (also ``training``, ``train2017``) and ``validation``, ``valid``, ``val``,
    ``dev``, ``test`` are splits. Images of ``train`` are for training; images of all others are for validation. A
    column "split" of a table has the same effect.

    Args:
        path: The folder.
        captions_from: Source of the captions: "tables" (metadata.jsonl, .csv, .parquet and the like), "files"
            (NAME.txt beside NAME.png), "folders" (one per class), "none" (the same text for all images, for models
            that read no text), or "auto", which uses the first of "tables", "files" and "folders" that exists.
        caption_key: Key of the caption in tables and JSON files, which are then read before texts; null: "text", or
            the only one of "caption", "captions", "description", "prompt", "title", "comment".
        template: Caption with {label} in place of the name of a class folder.
        split_folders: Whether folders with the names above are splits; false: they are like all other folders.

    Raises:
        DataError: there is nothing to train on; the captions are ambiguous; there is a problem that is not to be
            skipped; an option is wrong.
    """

    owner = "imagefolder"

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
        captions_from: CaptionsFrom = "auto",
        caption_key: str | None = None,
        draw_captions: bool = False,
        shuffle_tags: bool = False,
        keep_tags: Annotated[int, Field(ge=0, le=1000)] = 0,
        template: str = DEFAULT_TEMPLATE,
        split_folders: bool = True,
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
        self.captions_from = captions_from
        self.caption_key = caption_key
        self.draw_captions = draw_captions
        self.shuffle_tags = shuffle_tags
        self.keep_tags = keep_tags
        self.template = template
        self.split_folders = split_folders
        self.flip = flip
        self.validation = validation
        self.holdout = holdout
        self.on_error = on_error
        if "{label}" not in template:
            raise DataError(f"imagefolder: template '{template}' must hold {{label}}")
        self._folder = Path(path).expanduser()
        with paused_garbage_collection():
            found = read_folder(self._folder, captions_from, caption_key, template, split_folders)
            self._open(found.entries, problems=found.problems, notes=found.notes, labels=found.labels)

    def _encoded(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def _header(self, name: str) -> IO[bytes]:
        return (self._folder / name).open("rb")

    def _file(self, name: str) -> str:
        return str(self._folder / name)

    def _stamp(self, name: str) -> Stamp:
        return Stamp.of(os.stat(f"{self._folder}/{name}"))  # noqa: PTH116 - faster, for millions of files

    def _where(self, name: str) -> str:
        return self._file(name)
