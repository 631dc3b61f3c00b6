"""Captioned images in Parquet files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kgen.data.datasets.shards.places import Kind, find_shards
from kgen.data.datasets.shards.splits import split_files
from kgen.data.datasets.table import StoredTable, TableImages, pyarrow
from kgen.data.encoded import Buckets
from kgen.data.images import Resize
from kgen.data.problems import OnError

KIND = Kind("parquet", ".parquet", re.compile(r".*\.parquet", re.IGNORECASE))


class Parquet(TableImages):
    """Images in a column of Parquet files, as Hugging Face stores them, with captions or labels in other columns.

    It needs pyarrow: ``pip install 'kgen-core[parquet]'``.

    The images are bytes, or structures of "bytes" and "path". If there are no bytes, the path names an image file,
    relative to the Parquet file. A column of captions contains texts, or lists of texts. If there is a column of
    labels, the examples have the field "label". Its classes have the names that Hugging Face's metadata give them.

    Files such as ``train-00000-of-00002.parquet``, ``validation-...``, ``test-...``, and files in folders of these
    names, are splits. The images of "train" are for training, those of all others for validation.

    A start reads captions and labels, and up to 1,000 images; `EncodedImages` says when damaged ones are found. In a
    file without compression, each image is then read alone, however large the row groups are. Of a compressed file, one
    page is decompressed for an image. It often is a whole row group; up to 256 MiB of the last ones are kept per
    process. The start of a run says if this is slow.

    Args:
        path: A folder of ``.parquet`` files, one file, or a pattern such as ``data/train-*.parquet``, also with
            braces, as in ``{0000..0012}``.
        size: Height and width of the images, in pixels; for buckets, the root of their area.
        resize: How images become square: "crop" takes the middle, "pad" adds background, "stretch" distorts them.
            "bucket": they do not; each gets the shape of a bucket of about the same area, see `buckets`.
        buckets: Options of the buckets; null: their defaults.
        crops: Number of parts of each image that its square, or its bucket, may hold, evenly spaced along the side that
            is cut. Training draws one whenever it uses the image; everything else uses the middle. 1: training uses the
            middle too.
        channels: Number of channels: 3, or 1 for gray.
        background: Color behind transparent parts, and around padded images.
        image_key: The column of images; null: the only one.
        caption_key: The column of captions or labels; null: "text", or the only one of "caption", "captions",
            "description", "prompt", "title", "comment"; else the labels.
        draw_captions: Whether an image with several captions is one example. Training draws one of its captions each
            time it uses the image; everything else uses the first. false: every caption makes an example.
        template: Caption with {label} in place of the name of a label, if there is no column of captions. Without
            {label}, it is the caption of all images.
        flip: Whether every training image is also used mirrored.
        validation: Share of the training images that is used for validation, if no file is of a validation split.
        holdout: Captions to keep out of training and validation; they form the split "holdout".
        on_error: What to do about damaged images and missing captions: "refuse" to train, or "skip" them.

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
        template: Annotated[str, Field(min_length=1)] = "{label}",
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
        self.template = template
        self.flip = flip
        self.validation = validation
        self.holdout = holdout
        self.on_error = on_error
        pyarrow(self.owner)
        found = find_shards(path, KIND)
        splits = split_files(found.names, self.owner, str(found.root), found.chosen)
        self._open_tables({name: (found.root / name, splits[name]) for name in found.names}, found.problems)

    def _table(self, path: Path, name: str) -> StoredTable:
        from kgen.data.datasets.table.parquet_file import ParquetFile

        return ParquetFile(path, name, self.owner)
