"""Captioned images in Parquet files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kgen.data.datasets.shards.paths import Kind, find_shards
from kgen.data.datasets.shards.splits import split_files
from kgen.data.datasets.table import StoredTable, TableImages, pyarrow
from kgen.data.encoded import Buckets
from kgen.data.encoded.captions import DEFAULT_TEMPLATE
from kgen.data.images import Resize
from kgen.data.problems import OnError

KIND = Kind("parquet", ".parquet", re.compile(r".*\.parquet", re.IGNORECASE))


class Parquet(TableImages):
    """Images in a column of Parquet files, as Hugging Face stores them, with captions or labels in other columns.

    It needs pyarrow: ``pip install 'kgen-core[parquet]'``.

    The images are bytes, or structures of "bytes" and "path". If there are no bytes, the path names an image file,
    relative to the Parquet file. A column of captions contains texts, or lists of texts. If there is a column of
    labels, the examples have the field "label". The metadata of Hugging Face give the names of the classes.

    Files such as ``train-00000-of-00002.parquet``, ``validation-...``, ``test-...``, and files in folders of these
    names, are splits. The images of "train" are for training; the images of all others are for validation.

    A start reads the captions and labels, and checks up to 1,000 images that were not read before. If there are more, a
    damaged one is found when training needs it; ``kgen data check`` reads them all.

    In a file without compression, each image is read alone, however large the row groups are. To read an image of a
    compressed file, one page is decompressed, which often is a whole row group. Each process keeps up to 256 MiB of the
    pages that it used last. If this is slow, the first lines of a run say so.

    Args:
        path: A folder of ``.parquet`` files, one file, or a pattern such as ``data/train-*.parquet``, also with
            braces, as in ``{0000..0012}``.

    Raises:
        DataError: pyarrow is not installed; a file is damaged, or was changed while it was used; there is nothing to
            train on; a column is missing or ambiguous; there is a problem that is not to be skipped.
    """

    owner = "parquet"

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
        found = find_shards(path, KIND)
        splits = split_files(found.names, self.owner, str(found.root), found.chosen)
        self._open_tables({name: (found.root / name, splits[name]) for name in found.names}, found.problems)

    def _open_table(self, path: Path, name: str) -> StoredTable:
        from kgen.data.datasets.table.parquet_file import ParquetFile

        return ParquetFile(path, name, self.owner)
