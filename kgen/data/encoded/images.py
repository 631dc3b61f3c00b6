"""The base of datasets of encoded images, such as JPEG files, which are decoded when they are needed."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from kgen.contracts.dataset import SPLITS, Column, Dataset, Decoding, Problem, Split, short_digest
from kgen.data.encoded.buckets import Assignment, Buckets, assign, named, rows_by_bucket
from kgen.data.encoded.captions import shuffled_tags
from kgen.data.encoded.checked import Stamp, unchecked, write_checked
from kgen.data.encoded.garbage import paused_garbage_collection
from kgen.data.encoded.headers import read_shapes
from kgen.data.encoded.scan import scan
from kgen.data.images import ImageError, Resize, Shape, background_color, decode, fitted, fitted_file, mirrored
from kgen.data.problems import OnError, refuse
from kgen.data.splits import Entries, captions_by_image, divide
from kgen.errors import DataError
from kgen.options.documentation import documentation
from kgen.spaces import Space

READ_AT_START = 1000
"""Largest number of images that are read at the start to find damaged ones. This takes a few seconds."""

NOT_IN_FINGERPRINT = ("path", "on_error", "validation", "holdout", "shuffle_tags", "keep_tags")
"""Options that the fingerprint leaves out, because they change no image. The captions show how they change splits."""


class EncodedImages(Dataset):
    """Images in encoded form, with captions.

    A subclass has the options below, and stores them. Its docstring describes its other options, and gets the
    descriptions below. Its ``__init__`` then lists the images, without reading them, and calls `_open`. It overrides
    `_encoded`, `_stamp` and `_where`.

    kgen's cache remembers which images could be read. At the start, the dataset reads the images that the cache does
    not remember, if these are at most `READ_AT_START`. If the dataset has no more images than that in total, it leaves
    the damaged ones out of the splits.

    Otherwise, a damaged image is found when it is needed. If `on_error` is "refuse", `image` then raises DataError. If
    it is "skip", the next example of the split takes its place. The replacement depends only on the data, so that a
    training that was interrupted continues in the same way. `check` reads all images that the cache does not remember.

    With `resize` "bucket", the start also reads the headers of images whose shapes the cache does not remember. Images
    with a larger aspect ratio than `max_aspect` are refused, or left out of the splits. A damaged image is replaced by
    one from the same bucket.

    Args:
        size: Height and width of the images, in pixels. For buckets, it is the square root of their area.
        resize: How images get this size. "crop" cuts off what exceeds a square, "pad" adds background, and "stretch"
            distorts the image. "bucket" crops it to the aspect-ratio bucket whose shape is nearest.
        buckets: Options of the buckets. `step` divides all heights and widths, and `max_aspect` is the largest ratio of
            the sides; null: their defaults.
        crops: Number of crops of each image, evenly spaced along the side that does not fit the square or the bucket.
            Each time training uses the image, it picks one at random; everything else uses the middle one. With 1,
            training uses the middle one, too.
        channels: Number of channels: 3, or 1 for gray.
        background: Color behind transparent parts, and around padded images.
        draw_captions: Whether an image with several captions is one example. Each time training uses the image, it
            picks one of its captions at random; everything else uses the first. false: each caption is an example.
        shuffle_tags: Whether captions are lists of tags, separated by commas. Each time training uses an image, it puts
            the tags in a random order; everything else reads the caption as it is.
        keep_tags: Number of tags at the beginning of a caption that `shuffle_tags` leaves in their places.
        flip: Whether training also uses the mirror image of every image.
        validation: Share of the training images to use for validation, if there is no validation split.
        holdout: Captions to keep out of training and validation; they form the split "holdout".
        on_error: What to do about damaged files and images, and about missing captions: "refuse" raises an error, and
            "skip" leaves them out.
    """

    owner: ClassVar[str]
    """The name under which the dataset is registered, for messages."""

    path: str
    size: int
    resize: Resize
    buckets: Buckets | None = None
    channels: int
    background: str
    crops: int = 1
    keep_tags: int = 0
    flip: bool
    validation: float
    holdout: tuple[str, ...]
    on_error: OnError

    decodes_elsewhere = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = documentation(cls)

    @abstractmethod
    def _encoded(self, name: str) -> bytes:
        """Reads an image in encoded form. It is called from several threads.

        Raises:
            OSError: it cannot be read.
            ImageError: there is no image, or it is damaged.
            DataError: its file is no longer the one that was opened.
        """

    def _file(self, name: str) -> str | None:
        """The path of a file that holds only this image, so that another process can read it. Default: none."""
        return None

    def _header(self, name: str) -> IO[bytes]:
        """Opens an image, to read its header. Raises the errors of `_encoded`."""
        return io.BytesIO(self._encoded(name))

    @abstractmethod
    def _stamp(self, name: str) -> Stamp:
        """The size and the times of an image, without reading it. Raises OSError if it does not exist."""

    @abstractmethod
    def _where(self, name: str) -> str:
        """The path of an image, or the path of its file and its name in that file, for messages."""

    def _open(
        self,
        entries: Entries,
        *,
        problems: Sequence[Problem] = (),
        notes: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Finds images that cannot be used, and divides the others into splits.

        Args:
            entries: The examples of "train" and "validation".
            problems: What is wrong with images and captions that are not among `entries`.
            notes: Lines that say how the data were read.
            labels: The class of each image, by name, if there are classes.

        Raises:
            DataError: there is nothing to train on; there is a problem that is not to be skipped; an option is wrong.
        """
        self._check_options()
        self.views = self.crops
        self._color = background_color(self.background, self.owner)
        self._labels = labels or {}
        self.fields = (*Dataset.fields, "label") if self._labels else Dataset.fields
        names = list(dict.fromkeys(name for split in entries.values() for name, _ in split))
        self._stamps, missing = self._look(names)
        self._unlisted = [*problems, *missing]
        self._damaged: dict[str, str] = {}
        self._unread = unchecked(self._place(), self._stamps)
        if len(self._unread) <= READ_AT_START:
            self._read_rest()
        buckets = self._assign_buckets()
        self._bucket_of = buckets.bucket_of
        self._damaged = {**buckets.unfit, **self._damaged}
        left_out = self._damaged if len(names) <= READ_AT_START else buckets.unfit
        without = {problem.where for problem in missing} | left_out.keys()
        good: Entries = {
            split: [entry for entry in listed if entry[0] not in without] if without else listed
            for split, listed in entries.items()
        }
        usable = any(name not in self._damaged for name, _ in good["train"])
        refuse(self.problems(), self.on_error, usable, self.owner, self.path)
        self._entries = divide(
            good, validation=self.validation, holdout=self.holdout, owner=self.owner, place=self.path
        )
        self._texts: dict[Split, dict[str, tuple[str, ...]]] = {}
        if self.draw_captions:
            self._texts = {split: captions_by_image(listed) for split, listed in self._entries.items()}
            self._entries = {
                split: [(name, texts[0]) for name, texts in images.items()] for split, images in self._texts.items()
            }
        self._captions = {split: [caption for _, caption in listed] for split, listed in self._entries.items()}
        if self.flip:
            self._captions["train"] *= 2
        self._rows = {split: self._rows_of(split) for split in SPLITS} if self._bucket_of else {}
        self._notes = [*notes, *buckets.notes, *self._unread_note()]

    def _check_options(self) -> None:
        if self.crops > 1 and self.resize not in ("crop", "bucket"):
            raise DataError(f"{self.owner}: crops: {self.crops} needs resize: crop or bucket, not {self.resize}")
        if self.buckets is not None and self.resize != "bucket":
            raise DataError(f"{self.owner}: buckets has no effect with resize: {self.resize}: set resize: bucket")
        if self.keep_tags and not self.shuffle_tags:
            raise DataError(f"{self.owner}: keep_tags has no effect without shuffle_tags: true")

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, self.channels))

    def captions(self, split: Split) -> Sequence[str]:
        return self._captions.get(split, ())

    def rows_by_shape(self, split: Split) -> Mapping[Shape, np.ndarray]:
        return self._rows.get(split, {})

    def texts(self, split: Split, index: int) -> Sequence[str]:
        if not self.draw_captions:
            return super().texts(split, index)
        entries = self._entries[split]
        return self._texts[split][entries[index % len(entries)][0]]

    def drawn_caption(self, split: Split, index: int, number: int) -> str:
        order, place = divmod(number, len(texts := self.texts(split, index)))
        return shuffled_tags(texts[place], self.keep_tags, order) if order and self.shuffle_tags else texts[place]

    def image(self, split: Split, index: int) -> np.ndarray:
        return self._image(split, index, 0.5)

    def view(self, split: Split, index: int, number: int) -> np.ndarray:
        return self._image(split, index, self._part(number))

    def decoding(self, split: Split, index: int, view: int | None) -> Decoding:
        entries = self._entries[split]
        used = self.replacement(split, index)
        name = entries[used % len(entries)][0]
        file = self._file(name)
        source = (fitted, self._encoded(name)) if file is None else (fitted_file, file)
        decoding = (*source, *self._fitted_options(name, 0.5 if view is None else self._part(view)))
        return (mirrored, *decoding) if used >= len(entries) else decoding

    def _image(self, split: Split, index: int, part: float) -> np.ndarray:
        """Reads an image. `part` is the position of the crop, from 0 (left or top) to 1 (right or bottom)."""
        entries = self._entries[split]
        while True:
            used = self.replacement(split, index)
            name = entries[used % len(entries)][0]
            try:
                pixels = fitted(self._encoded(name), *self._fitted_options(name, part))
            except OSError as error:
                raise DataError(
                    f"{self.owner}: {self._where(name)} cannot be read: {error.strerror or error}. Images must stay as "
                    "they are while a model is trained"
                ) from error
            except ImageError as error:
                self.report(Problem(name, str(error)))
            else:
                return pixels[:, ::-1].copy() if used >= len(entries) else pixels

    def replacement(self, split: Split, index: int) -> int:
        entries = self._entries[split]
        copy, start = divmod(index, len(entries))  # copy 1 are the mirror images
        if entries[start][0] not in self._damaged:
            return index
        bucket = self._bucket_of.get(entries[start][0])
        for place in itertools.chain(range(start + 1, len(entries)), range(start)):
            name = entries[place][0]
            if name not in self._damaged and self._bucket_of.get(name) == bucket:
                return copy * len(entries) + place
        which = f"the split '{split}'" if bucket is None else f"the bucket {named(bucket)} of the split '{split}'"
        raise DataError(f"{self.owner}: all images of {which} in {self.path} are damaged")

    def report(self, problem: Problem) -> None:
        if problem.where in self._damaged or problem.where not in self._stamps:
            return
        if self.on_error == "refuse":
            raise DataError(
                f"{self.owner}: {self._where(problem.where)}: {problem.what}. 'kgen data check' finds all such images: "
                "fix them, or leave them out with data.on_error: skip"
            )
        self._damaged[problem.where] = problem.what

    def values(self, split: Split, field: str) -> Sequence[Any]:
        if field != "label" or not self._labels:
            return super().values(split, field)
        entries = self._entries.get(split, [])
        return Column(len(self.captions(split)), lambda index: self._labels[entries[index % len(entries)][0]])

    def notes(self) -> Sequence[str]:
        return self._notes

    def problems(self) -> Sequence[Problem]:
        return (*self._unlisted, *(Problem(name, what) for name, what in list(self._damaged.items())))

    def check(self) -> Sequence[Problem]:
        self._read_rest()
        refuse(self.problems(), self.on_error, True, self.owner, self.path)
        return self.problems()

    def fingerprint(self) -> str:
        """A digest of the names, sizes and times of all files, of all captions, and of options that affect images."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        options = {name: value for name, value in self.config.items() if name not in NOT_IN_FINGERPRINT}
        options = {name: value for name, value in options.items() if name != "buckets" or value is not None}
        digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=list).encode())
        for split in SPLITS:
            texts = itertools.chain.from_iterable(self._texts.get(split, {}).values())
            digest.update("\0".join([split, *self.captions(split), *texts]).encode())
        with paused_garbage_collection():
            lines = (f"{name}\0{size} {time}\0" for name, (size, time, _) in sorted(self._stamps.items()))
            while block := "".join(itertools.islice(lines, 1000)):
                digest.update(block.encode())
        return digest.hexdigest()[:16]

    def inventory(self) -> Mapping[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        for split, entries in self._entries.items():
            for name, caption in entries:
                size, time, _ = self._stamps[name]
                for text in self._texts[split][name] if self.draw_captions else (caption,):
                    before = found[name][1] if name in found else ""
                    found[name] = (f"{size:x} {time:x}", short_digest(f"{before}{split}\0{text}".encode()))
        return found

    def _place(self) -> Path:
        return Path(self.path).expanduser()

    def _part(self, view: int) -> float:
        """The position of the crop of a view, from 0 to 1."""
        return view / (self.crops - 1) if self.crops > 1 else 0.5

    def _fitted_options(self, name: str, part: float) -> tuple[Shape, int, Resize, tuple[int, int, int], float]:
        """The arguments of `fitted` after the file."""
        shape = self._bucket_of.get(name, (self.size, self.size))
        return shape, self.channels, self.resize, self._color, part

    def _look(self, names: Sequence[str]) -> tuple[dict[str, Stamp], list[Problem]]:
        """The stamps of the images that exist, and problems for the others."""

        def look(name: str) -> Stamp | Problem:
            try:
                return self._stamp(name)
            except OSError as error:
                return Problem(name, str(error))

        found: dict[str, Any] = dict(zip(names, scan(names, look, f"{self.owner} {self.path}"), strict=True))
        missing = [problem for problem in found.values() if isinstance(problem, Problem)]
        for problem in missing:
            del found[problem.where]
        return found, missing

    def _read_rest(self) -> None:
        """Decodes the images that were not read yet, and writes to the cache which of them could be decoded."""
        if not self._unread:
            return

        def read(name: str) -> Problem | None:
            try:
                decode(self._encoded(name), self._color, size=self.size)
            except (ImageError, OSError) as error:
                return Problem(name, str(error))
            return None

        found = scan(self._unread, read, f"{self.owner} {self.path}")
        self._unread = []
        self._damaged |= {problem.where: problem.what for problem in found if problem is not None}
        good = {name: stamp for name, stamp in self._stamps.items() if name not in self._damaged}
        write_checked(self._place(), good)

    def _assign_buckets(self) -> Assignment:
        """Finds the bucket of each image; none if the images have one shape."""
        if self.resize != "bucket":
            return Assignment({}, {}, [])
        options = self.buckets or Buckets()
        shapes = options.shapes(self.size)
        images, damaged = read_shapes(self._place(), self._stamps, self._header, f"{self.owner} {self.path}")
        found = assign(options, shapes, images)
        notes = [f"{self.owner} {self.path}: {line}" for line in found.notes]
        return Assignment(found.bucket_of, {**damaged, **found.unfit}, notes)

    def _rows_of(self, split: Split) -> dict[Shape, np.ndarray]:
        copies = 2 if self.flip and split == "train" else 1
        return rows_by_bucket([self._bucket_of[name] for name, _ in self._entries[split]], copies)

    def _unread_note(self) -> list[str]:
        if not self._unread:
            return []
        what = "stops the training" if self.on_error == "refuse" else "is skipped"
        return [
            f"{self.owner} {self.path}: {len(self._unread):,} of {len(self._stamps):,} images are read for the first "
            f"time when they are needed. A damaged one {what}; 'kgen data check' reads all of them"
        ]
