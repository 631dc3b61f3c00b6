"""The contract of a source of captioned images."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from kgen.errors import DataError
from kgen.options import Arguments, Configurable
from kgen.spaces import Space

Split = Literal["train", "validation", "holdout"]
SPLITS: tuple[Split, ...] = get_args(Split)


Example = dict[str, Any]
"""The fields of one example, by name."""


@dataclass(frozen=True)
class Problem:
    """Says which image or caption cannot be used (`where`), and why (`what`)."""

    where: str
    what: str


Decoding = tuple[Any, ...]
"""A function that returns an image, uint8 (height, width, channels), and its arguments."""


class Dataset(Configurable, ABC):
    """Random access to captioned images of one size, or of a few shapes of the same area, in splits.

    A subclass takes its options as keyword arguments and stores each under its own name. Reading must be thread-safe,
    and example i of a split must always be the same. Bad input raises `DataError` in ``__init__``. Single images that
    can be skipped raise nothing; `problems` lists them.

    An example is a mapping of fields. Every dataset has the fields "image" and "caption". A dataset may have more
    fields, which encoders can read: "label", which is the name of the class; or any other, such as a vector or a
    control image. Such a dataset names them in `fields`, and returns their values from `values`.

    A value that is an array, uint8 (height, width, channels), is an image: `fit.flip` mirrors it together with "image".

    Attributes:
        credit: The credit line that the license of the images requires. Reports show it.
        fields: The names of the fields of an example.
        views: Number of views of each training image, such as crops. Each time it uses an example, training picks one
            view at random (`view`). Everything else uses `image`.
        draw_captions: Whether training picks one of several captions at random each time it uses an example (`texts`).
            Everything else uses `captions`.
        shuffle_tags: Whether training puts the tags of a caption in a random order each time it uses an example
            (`drawn_caption`), so that conditions of captions cannot be cached. Everything else uses `captions`.
        decodes_elsewhere: Whether worker processes decode images with `decoding`. Otherwise, every worker has a copy of
            the dataset, and reads images itself.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {"__init__": Arguments(reserved=frozenset({"name"}))}

    credit: str = ""
    fields: tuple[str, ...] = ("image", "caption")
    views: int = 1
    draw_captions: bool = False
    shuffle_tags: bool = False
    decodes_elsewhere: bool = False

    @property
    @abstractmethod
    def image_space(self) -> Space:
        """The space of the images: continuous, of the shape (height, width, channels)."""

    @abstractmethod
    def captions(self, split: Split) -> Sequence[str]:
        """The captions of a split, one per example, without reading images. Empty if there is no such split.

        "validation" is for measuring the loss. "holdout" is for captions that training must not see, such as
        combinations of attributes.
        """

    @abstractmethod
    def image(self, split: Split, index: int) -> np.ndarray:
        """One image: uint8 (height, width, channels), the shape of `image_space`, or that of `rows_by_shape`.

        If the image is damaged, and another example takes its place, this returns the image of that example.
        `replacement` then returns the index of that example.

        Raises:
            DataError: the image is damaged or missing, and nothing takes its place.
        """

    def view(self, split: Split, index: int, number: int) -> np.ndarray:
        """View `number` (0 to `views` - 1) of an image, of the same shape as `image`. It raises what `image` raises."""
        return self.image(split, index)

    def decoding(self, split: Split, index: int, view: int | None) -> Decoding:
        """A function and its arguments. The function returns a view of an image, or the image if `view` is None.

        kgen uses this if `decodes_elsewhere` is set. Another process calls the function. It must be defined at the top
        of a module, so that pickle can send it. If this method or the function raises an error, kgen calls `image` or
        `view` in this process, which reports the problem, or raises an error that names the image.
        """
        raise NotImplementedError

    def rows_by_shape(self, split: Split) -> Mapping[tuple[int, int], np.ndarray]:
        """The indices of the examples of a split, grouped by the height and width of their images.

        Override this if the images differ in shape. `image_space` is then the space of square images of about the same
        area. A replacement of a damaged image must have the same shape. Default: empty; all images have the shape of
        `image_space`.
        """
        return {}

    def texts(self, split: Split, index: int) -> Sequence[str]:
        """All captions of an example, at least one. That of `captions` is one of them."""
        return (self.captions(split)[index],)

    def drawn_caption(self, split: Split, index: int, number: int) -> str:
        """The caption of an example for one use in training, if `draw_captions` or `shuffle_tags` is set.

        Args:
            number: A random integer in [0, 2^56), which determines the caption. The first numbers stand for `texts`.
        """
        texts = self.texts(split, index)
        return texts[number % len(texts)]

    def shares(self, split: Split) -> Sequence[tuple[int, float]]:
        """The number of examples in each of several consecutive parts of a split, and the part's share in training.

        Training takes that share of its examples from the part. The shares sum to 1. Default: empty; training then
        uses every example once per pass.
        """
        return ()

    def replacement(self, split: Split, index: int) -> int:
        """The index of the example that takes the place of example `index`; `index` if its image is not damaged.

        It is known after `image` was called for that index. Default: no example is replaced.
        """
        return index

    def report(self, problem: Problem) -> None:
        """Tells the dataset about a problem that `image` found in another process, or when a cache was written.

        Raises:
            DataError: the problem must stop the training.
        """

    def values(self, split: Split, field: str) -> Sequence[Any]:
        """The values of one field for all examples of a split, in the order of `captions`.

        Images are read when they are accessed.

        Raises:
            DataError: the dataset has no such field.
        """
        if field == "image":
            return Column(len(self.captions(split)), functools.partial(self.image, split))
        if field == "caption":
            return self.captions(split)
        raise DataError(f"{type(self).__name__} has no field '{field}': it has {', '.join(self.fields)}")

    def example(self, split: Split, index: int) -> Example:
        """All fields of an example by name. If the image is damaged, they are those of the replacement."""
        image = self.image(split, index)
        index = self.replacement(split, index)
        return {field: image if field == "image" else self.values(split, field)[index] for field in self.fields}

    def problems(self) -> Sequence[Problem]:
        """The images and captions that were skipped, as far as they are known now. Default: none."""
        return ()

    def check(self) -> Sequence[Problem]:
        """Reads every image that was not read before, and returns all problems. Default: the known problems.

        Raises:
            DataError: a problem must not be skipped.
        """
        return self.problems()

    def notes(self) -> Sequence[str]:
        """Lines that tell the user how the data were read. A run prints them first. Default: none."""
        return ()

    def prompts(self, split: Split) -> list[str]:
        """The distinct captions of a split, in order of first appearance."""
        return list(dict.fromkeys(self.captions(split)))

    def fingerprint(self) -> str:
        """A text that changes if captions, images or other fields change.

        Default: a digest of the captions and of a few images. Override it if other fields can change while these stay
        the same.
        """
        digest = hashlib.sha256()
        for split in ("train", "validation", "holdout"):
            captions = self.captions(split)
            digest.update("\0".join([split, *captions]).encode())
            for index in sorted({0, len(captions) // 2, len(captions) - 1} & set(range(len(captions)))):
                digest.update(self.image(split, index).tobytes())
        return digest.hexdigest()[:16]

    def inventory(self) -> Mapping[str, tuple[str, str]]:
        """Short texts for every image and for its captions, by a name that people recognize.

        If the fingerprint has changed, the inventory shows which images have changed (`kgen.data.inventory`). A text
        changes with the image, or with the captions, such as a digest; it is "" if nothing is known. Default: examples
        are numbered, and only captions have a digest.
        """
        return {
            f"{split} {index}": ("", short_digest(caption.encode()))
            for split in SPLITS
            for index, caption in enumerate(self.captions(split))
        }


class Column(Sequence[Any]):
    """The values of a field, each of which is computed when it is accessed.

    Args:
        count: The number of values.
        read: Function that returns the value at an index.
    """

    def __init__(self, count: int, read: Callable[[int], Any]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._read(range(self._count)[index])


def short_digest(data: bytes) -> str:
    """A digest of 12 hexadecimal digits (BLAKE2b): enough to detect a change, short enough for a million images."""
    return hashlib.blake2b(data, digest_size=6).hexdigest()
