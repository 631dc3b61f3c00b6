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
    """An image or caption that cannot be used."""

    where: str
    what: str


class Dataset(Configurable, ABC):
    """Random access to captioned images of one size, in splits.

    A subclass takes its options as keyword arguments and stores each under its own name. Reading must be thread-safe,
    and example i of a split always the same. Bad input raises `DataError` from ``__init__``, but for single images
    that may be skipped: those are `problems`.

    An example is a mapping of fields. Every dataset has "image" and "caption"; one may have more, which encoders read:

    - "label", the name of the example's class, a text;
    - any other, such as a vector, or an image that steers the generation. An array uint8 (height, width, channels) is
      an image: where `fit.flip` mirrors the examples, it is mirrored with them.

    A dataset with more fields names them in `fields`, and gives their values in `values`.

    Attributes:
        credit: The credit line that the images' license asks for; shown in reports.
        fields: The names of what an example holds.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {"__init__": Arguments(reserved=frozenset({"name"}))}

    credit: str = ""
    fields: tuple[str, ...] = ("image", "caption")

    @property
    @abstractmethod
    def image_space(self) -> Space:
        """Continuous, (height, width, channels)."""

    @abstractmethod
    def captions(self, split: Split) -> Sequence[str]:
        """The captions of a split, one an example, without reading images. Empty for a split that is not there.

        "validation" is for measuring the loss, "holdout" for captions that training must not see (combinations, say).
        """

    @abstractmethod
    def image(self, split: Split, index: int) -> np.ndarray:
        """One image: uint8 (height, width, channels) as `image_space` says."""

    def values(self, split: Split, field: str) -> Sequence[Any]:
        """One field of every example of a split, in the order of `captions`. An image is read when it is asked for.

        Raises:
            DataError: this dataset has no such field.
        """
        if field == "image":
            return Column(len(self.captions(split)), functools.partial(self.image, split))
        if field == "caption":
            return self.captions(split)
        raise DataError(f"{type(self).__name__} has no field '{field}': it has {', '.join(self.fields)}")

    def example(self, split: Split, index: int) -> Example:
        """One example: all of its fields, by name."""
        return {field: self.values(split, field)[index] for field in self.fields}

    def problems(self) -> Sequence[Problem]:
        """What was skipped on loading, or would break training; found without training. Default: nothing."""
        return ()

    def notes(self) -> Sequence[str]:
        """Lines on how the data were read that a user should know; a run begins with them. Default: nothing."""
        return ()

    def prompts(self, split: Split) -> list[str]:
        """The different captions of a split, in order of first appearance."""
        return list(dict.fromkeys(self.captions(split)))

    @property
    def prompt_space(self) -> Space | None:
        """Of the images that `prompt_of` reads, where prompts are made of images; None: people write them."""
        return None

    def prompt_of(self, image: np.ndarray) -> str:
        """The prompt that stands for an image, uint8 as `prompt_space` says; only where there is one."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Changes when captions, images or other fields do.

        The default looks at the captions and a few images of each split: one whose other fields may change alone
        overrides it.
        """
        digest = hashlib.sha256()
        for split in ("train", "validation", "holdout"):
            captions = self.captions(split)
            digest.update("\0".join([split, *captions]).encode())
            for index in sorted({0, len(captions) // 2, len(captions) - 1} & set(range(len(captions)))):
                digest.update(self.image(split, index).tobytes())
        return digest.hexdigest()[:16]

    def inventory(self) -> Mapping[str, tuple[str, str]]:
        """Every image by a name that people recognize, with digests of its pixels or file, and of its captions.

        It says which images changed where the fingerprint changed (`kgen.data.inventory`). A digest is a short text; ""
        where none was computed. The default numbers the examples of each split and looks at their captions alone.
        """
        return {
            f"{split} {index}": ("", short_digest(caption.encode()))
            for split in SPLITS
            for index, caption in enumerate(self.captions(split))
        }


class Column(Sequence[Any]):
    """One field of many examples, each value of which is made when it is asked for.

    Args:
        count: How many there are.
        read: Makes the value of an index.
    """

    def __init__(self, count: int, read: Callable[[int], Any]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._read(range(self._count)[index])


def short_digest(data: bytes) -> str:
    """12 hexadecimal digits of a SHA-256: enough to see a change, short enough to be kept for a million images."""
    return hashlib.sha256(data).hexdigest()[:12]
