"""Captioned images in ArrayRecord files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kgen.data.datasets.shards.example import ExampleError
from kgen.data.datasets.shards.images import ShardImages
from kgen.data.datasets.shards.listing import Listing
from kgen.data.datasets.shards.paths import Kind
from kgen.data.datasets.shards.records import list_records, open_reader, read_image
from kgen.data.encoded import Buckets
from kgen.data.encoded.captions import DEFAULT_TEMPLATE
from kgen.data.encoded.lru_cache import LRUCache
from kgen.data.images import ImageError, Resize
from kgen.data.problems import OnError

OPEN_FILES = 64
"""Largest number of files that a process keeps open."""


class ArrayRecord(ShardImages):
    """Images in ArrayRecord files on a local disk. grain and tensorflow-datasets use this format.

    Each record is a serialized tf.train.Example. It has an encoded image in "image", "image/encoded", "jpg", "jpeg",
    "png", "webp", "image_bytes" or "img", and captions in "text", "caption" and the like. If no record has captions,
    the class in "label", "class", "cls" or "image/class/text" is the caption, and also the label. TensorFlow is not
    needed. Records in other formats, such as pickles, are refused.

    The first start reads all records to find their captions, which kgen's cache remembers. Later starts read only the
    files whose size or times have changed. At each start, up to 1,000 images that were not read before are checked. If
    there are more, a damaged one is found when training needs it; ``kgen data check`` reads them all.

    A split is named by a folder, or by a word in the name of a file: ``cifar10-train.array_record-00000-of-00001``.
    Files of ``train`` are for training; files of ``validation``, ``valid``, ``val``, ``dev`` and ``test`` are for
    validation. If a pattern chooses only files of one split, they are for training. If tensorflow-datasets has prepared
    the files, the dataset ``tfds`` can read them too, and knows the names of the classes.

    Args:
        path: A folder of .array_record files, one such file, or a pattern such as "train-*.array_record".
        image_key: Name of the feature of images; null: the first one above that exists.
        caption_key: Name of the feature of captions or classes; null: the first that exists of "text", "caption",
            "captions", "description", "prompt", "title", "comment", "image/text", "image/caption" and so on; else the
            classes.
        template: Caption with {label} in place of the class, if there are no captions. Without {label}, it is the
            caption of all images.

    Raises:
        DataError: the package array-record is not installed; there is nothing to train on; the names of splits are
            ambiguous; the records are in another format; there is a problem that is not to be skipped; an option is
            wrong.
    """

    owner = "array_record"
    kind = Kind("array_record", ".array_record", re.compile(r".*\.array_?record(-\d+-of-\d+)?", re.IGNORECASE))
    separator = ", record "
    caption_advice = "A record must have 'caption' or 'label'; or set caption_key"

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
        self._readers: LRUCache[Any] = LRUCache(OPEN_FILES)  # threads can share a reader, but processes cannot
        self._open_shards()

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "image_key": self.image_key}

    def _list(self, path: Path) -> Listing:
        return list_records(path, self.image_key, self.caption_key)

    def _read(self, number: int, place: int, size: int) -> bytes:
        path = self._path(number)
        reader = self._readers.get(number, lambda: (open_reader(path), 1))
        self._check_shard(number, path.stat())  # after the file was opened, because it may be replaced before
        try:
            return read_image(reader.read([place])[0], self.image_key)
        except (ExampleError, RuntimeError) as error:
            raise ImageError(f"the record is damaged: {error}") from error
