"""Captioning is generating with the pair turned round: a caption is drawn as an image, and the image is the text."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from keras import ops
from pydantic import PositiveInt

from kgen import (
    ConfigError,
    DataError,
    Dataset,
    Decoder,
    GeneratedImages,
    Metric,
    Problem,
    RunError,
    Space,
    Split,
    latents_of,
    make_dataset,
    open_decoder,
)
from kgen_plugin_tokens.letters import Letters, letter_space, written

SPLITS: tuple[Split, ...] = ("train", "validation", "holdout")


class Captions(Dataset):
    """Another dataset's captions, drawn as letters; the caption of each is its image, as tokens: "17 3 120 ...".

    Args:
        of: The other dataset: its name, or a mapping of its name and options.
        codec: A run whose decoder, once trained, makes tokens of that dataset's images.
        length: Letters of the longest caption.

    Raises:
        DataError: a caption is longer than `length`, or has letters that cannot be drawn.
        ConfigError: there is no such run, its decoder makes no tokens, or it is of images of another size.
    """

    def __init__(self, *, of: str | dict[str, Any], codec: str, length: PositiveInt = 48) -> None:
        self.of = of
        self.codec = codec
        self.length = length
        self.images = make_dataset(of)
        self.credit = self.images.credit
        for caption in dict.fromkeys(caption for split in SPLITS for caption in self.images.captions(split)):
            _checked(caption, length)
        self._decoder = _open(codec, self.images.image_space)

    @property
    def image_space(self) -> Space:
        return letter_space(self.length)

    @functools.cached_property
    def _captions(self) -> dict[str, list[str]]:
        return {split: self._texts(split) for split in SPLITS if self.images.captions(split)}

    def _texts(self, split: Split) -> list[str]:
        return [_as_text(tokens) for tokens in latents_of(self._decoder, self.images, split)]

    def captions(self, split: Split) -> Sequence[str]:
        return self._captions.get(split, [])

    def wording(self, split: Split, index: int) -> str:
        """The caption that is drawn."""
        return self.images.captions(split)[index].strip().lower()

    def image(self, split: Split, index: int) -> np.ndarray:
        return written(self.wording(split, index), self.length)

    def problems(self) -> Sequence[Problem]:
        return self.images.problems()

    @property
    def prompt_space(self) -> Space:
        return self.images.image_space

    def prompt_of(self, image: np.ndarray) -> str:
        scaled = (image[None] / 127.5 - 1.0).astype(np.float32)
        return _as_text(ops.convert_to_numpy(self._decoder.encode(ops.convert_to_tensor(scaled)))[0])


def _checked(caption: str, length: int) -> None:
    try:
        written(caption, length)
    except DataError as error:
        raise DataError(f"captions: {error}") from error


def _open(codec: str, space: Space) -> Decoder:
    """The decoder of a run, which makes tokens of images of this space."""
    try:
        decoder, _ = open_decoder(codec)
    except RunError as error:
        raise ConfigError(f"captions: codec: {error}") from error
    if decoder.latent_space.kind != "tokens":
        raise ConfigError(
            f"captions: codec: the decoder of {codec} makes {decoder.latent_space}, but captions are of tokens: take a "
            "run whose decoder makes some"
        )
    if decoder.image_space != space:
        raise ConfigError(
            f"captions: codec: {codec} is of images {decoder.image_space}, but those to be captioned are {space}"
        )
    return decoder


def _as_text(tokens: np.ndarray) -> str:
    """The tokens of an image, row by row."""
    return " ".join(map(str, tokens.reshape(-1).tolist()))


class Wording(Metric):
    """Are the captions that were drawn those of their images?

    "exact" is the share that is right to the letter, "length" the share of the right length, "letters" the share of the
    letters of the right caption that stand in their places.
    """

    requires: ClassVar[type[Any] | None] = Captions

    def start(self, dataset: Dataset, split: Split) -> None:
        super().start(dataset, split)
        assert isinstance(dataset, Captions)
        self._reader, self._right = Letters(dataset.image_space), _right(dataset, split)

    def update(self, batch: GeneratedImages) -> None:
        for image, prompt in zip(batch.images, batch.prompts, strict=True):
            exact, length, letters = _compare(self._reader.text_of(image), self._right[prompt])
            self.add(exact=exact, length=length, letters=letters, count=1)

    def compute(self) -> Mapping[str, float]:
        return {name: float(self.sums[name] / self.sums["count"]) for name in ("exact", "length", "letters")}


def _right(dataset: Captions, split: Split) -> dict[str, str]:
    """By prompt, the caption of the first image of these tokens."""
    found: dict[str, str] = {}
    for index, prompt in enumerate(dataset.captions(split)):
        found.setdefault(prompt, dataset.wording(split, index))
    return found


def _compare(found: str, right: str) -> tuple[float, float, float]:
    same = sum(one == other for one, other in zip(found, right, strict=False))
    return float(found == right), float(len(found) == len(right)), same / len(right)
