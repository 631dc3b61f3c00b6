"""Captioned images in ArrayRecord files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kgen.data.datasets.shards.example import ExampleError
from kgen.data.datasets.shards.images import DEFAULT_TEMPLATE, ShardImages
from kgen.data.datasets.shards.listing import Listing
from kgen.data.datasets.shards.places import Kind
from kgen.data.datasets.shards.records import list_records, open_reader, read_image
from kgen.data.encoded import Buckets
from kgen.data.encoded.recent import Recent
from kgen.data.images import ImageError, Resize
from kgen.data.problems import OnError

OPEN_FILES = 64
"""Largest number of files that a process keeps open."""


class ArrayRecord(ShardImages):
    """Images in ArrayRecord files, as grain and tensorflow-datasets use them, on a local disk.

    Each record is a serialized tf.train.Example. It has an encoded image in "image", "image/encoded", "jpg", "jpeg",
    "png", "webp", "image_bytes" or "img", and captions in "text", "caption" and the like. If no record has captions,
    the class in "label", "class", "cls" or "image/class/text" is the caption, and also the label. TensorFlow is not
    needed; records in other formats, such as pickles, are refused.

    The first start reads all records, for their captions; kgen's cache remembers them by the size and times of each
    file. Later starts read only files that changed. `EncodedImages` says when damaged images are found.

    Words in the names of files, and names of folders, are splits: ``cifar10-train.array_record-00000-of-00001``. Those
    of ``train`` are for training, those of ``validation``, ``valid``, ``val``, ``dev`` and ``test`` for validation. If
    a pattern chooses files of one split only, they are for training. The dataset ``tfds`` reads the same files if
    tensorflow-datasets has prepared them, and knows the names of the classes.

    Args:
        path: A folder of .array_record files, one such file, or a pattern such as "train-*.array_record".
        size: Height and width of the images, in pixels; for buckets, the root of their area.
        resize: How images become square: "crop" takes the middle, "pad" adds background, "stretch" distorts them.
            "bucket": they do not; each gets the shape of a bucket of about the same area, see `buckets`.
        buckets: Options of the buckets; null: their defaults.
        crops: Number of parts of each image that its square, or its bucket, may hold, evenly spaced along the side that
            is cut. Training draws one whenever it uses the image; everything else uses the middle. 1: training uses the
            middle too.
        channels: Number of channels: 3, or 1 for gray.
        background: Color behind transparent parts, and around padded images.
        image_key: Name of the feature of images; null: the first one above that exists.
        caption_key: Name of the feature of captions or classes; null: the first one that exists of "text", "caption",
            "captions", "description", "prompt", "title", "comment", and of these after "image/"; else the classes.
        draw_captions: Whether an image with several captions is one example. Training draws one of its captions each
            time it uses the image; everything else uses the first. false: every caption makes an example.
        template: Caption with {label} in place of the class, if there are no captions. Without {label}, it is the
            caption of all images.
        flip: Whether every training image is also used mirrored.
        validation: Share of the training images that is used for validation, if no file is of a validation split.
        holdout: Captions to keep out of training and validation; they form the split "holdout".
        on_error: What to do about damaged files and images, and missing captions: "refuse" to train, or "skip" them.

    Raises:
        DataError: the package array-record is not installed; there is nothing to train on; the names of splits are
            ambiguous; the records are in another format; there is a problem that is not to be skipped; an option is
            wrong.
    """

    owner = "array_record"
    kind = Kind("array_record", ".array_record", re.compile(r".*\.array_?record(-\d+-of-\d+)?", re.IGNORECASE))
    between = ", record "
    advice = "A record must have 'caption', or 'label'; or set caption_key"

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
        self.template = template
        self.flip = flip
        self.validation = validation
        self.holdout = holdout
        self.on_error = on_error
        self._readers: Recent[Any] = Recent(OPEN_FILES)  # a reader may be used by several threads, but not pickled
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
