"""The contract of a source of captioned images."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict, get_args

import numpy as np

from kgen.options import Arguments, Configurable
from kgen.spaces import Space

Split = Literal["train", "validation", "holdout"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Example(TypedDict):
    """One captioned image: "image" uint8 (height, width, channels), "caption"."""

    image: np.ndarray
    caption: str


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

    Attributes:
        credit: The credit line that the images' license asks for; shown in reports.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {"__init__": Arguments(reserved=frozenset({"name"}))}

    credit: str = ""

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

    def example(self, split: Split, index: int) -> Example:
        """One image with its caption: a dict of "image", as `image` gives it, and "caption"."""
        return {"image": self.image(split, index), "caption": self.captions(split)[index]}

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
        """Changes when captions or images do; the default looks at captions and a few images of each split."""
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


def short_digest(data: bytes) -> str:
    """12 hexadecimal digits of a SHA-256: enough to see a change, short enough to be kept for a million images."""
    return hashlib.sha256(data).hexdigest()[:12]
