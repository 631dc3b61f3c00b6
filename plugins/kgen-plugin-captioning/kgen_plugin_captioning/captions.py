"""A dataset for captioning: its images show texts, and an encoder reads the images that the texts describe."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops
from pydantic import PositiveInt

from kgen import (
    Column,
    ConfigError,
    DataError,
    Dataset,
    Decoder,
    Problem,
    RunError,
    Space,
    Split,
    latents_of,
    make_dataset,
    open_decoder,
)
from kgen_plugin_captioning.letters import letter_space, written

SPLITS: tuple[Split, ...] = ("train", "validation", "holdout")

OWN = ("image", "caption", "original", "tokens")
"""The fields of this dataset; all others are those of the other dataset."""


class Captions(Dataset):
    """The captions of another dataset, rendered as images of letters, with the images that they describe.

    The field "image" is the image of the text, which the generator learns to make. "original" is the image that the
    caption describes. With a `codec`, "tokens" are the tokens of "original", row by row: int32 (N,). Examples also have
    the remaining fields of the other dataset.

    Args:
        of: The other dataset: its name, or a mapping of its name and options.
        codec: A run whose trained decoder turns the images of that dataset into tokens; null: no field "tokens".
        length: Maximum number of letters of a caption.

    Raises:
        DataError: a caption is longer than `length`, or has unknown letters.
        ConfigError: `codec` is not a run, its decoder has no tokens, or its images have another size.
    """

    def __init__(self, *, of: str | dict[str, Any], codec: str | None = None, length: PositiveInt = 48) -> None:
        self.of = of
        self.codec = codec
        self.length = length
        self.originals = make_dataset(of)
        self.credit = self.originals.credit
        texts = {split: self.originals.captions(split) for split in SPLITS}
        for caption in dict.fromkeys(caption for split in SPLITS for caption in texts[split]):
            _check(caption, length)
        self._captions = {split: [text.strip().lower() for text in found] for split, found in texts.items()}
        self._decoder = None if codec is None else _open(codec, self.originals.image_space)
        others = tuple(field for field in self.originals.fields if field not in OWN)
        self.fields = ("image", "caption", "original", *(("tokens",) if codec is not None else ()), *others)

    @property
    def image_space(self) -> Space:
        return letter_space(self.length)

    def captions(self, split: Split) -> Sequence[str]:
        return self._captions[split]

    def image(self, split: Split, index: int) -> np.ndarray:
        return written(self._captions[split][index], self.length)

    def values(self, split: Split, field: str) -> Sequence[Any]:
        if field == "original":
            return self.originals.values(split, "image")
        if field == "tokens" and self._decoder is not None:
            tokens = self._tokens[split]
            return Column(len(tokens), lambda index: tokens[index])
        if field in self.fields and field not in OWN:
            return self.originals.values(split, field)
        return super().values(split, field)

    @functools.cached_property
    def _tokens(self) -> dict[Split, np.ndarray]:
        """The tokens of all originals by split: (number of examples, N)."""
        assert self._decoder is not None
        splits = [split for split in SPLITS if self._captions[split]]
        found = {split: latents_of(self._decoder, self.originals, split) for split in splits}
        return {split: found[split].reshape(len(found[split]), -1) if split in found else _NONE for split in SPLITS}

    def fields_of(self, original: np.ndarray) -> dict[str, Any]:
        """Returns the fields of an image without a caption: "original", and "tokens" if there is a codec.

        Args:
            original: uint8, of the shape of the other dataset's images.
        """
        if self._decoder is None:
            return {"original": original}
        scaled = ops.convert_to_tensor((original[None] / 127.5 - 1.0).astype(np.float32))
        tokens = ops.convert_to_numpy(self._decoder.encode(scaled)).reshape(-1)
        return {"original": original, "tokens": tokens.astype(np.int32)}

    def problems(self) -> Sequence[Problem]:
        return self.originals.problems()

    def fingerprint(self) -> str:
        digest = hashlib.sha256((super().fingerprint() + self.originals.fingerprint()).encode())
        if self._decoder is not None:
            for split in SPLITS:
                digest.update(np.ascontiguousarray(self._tokens[split], np.int32).tobytes())
        return digest.hexdigest()[:16]


_NONE = np.zeros((0, 0), np.int32)


def _check(caption: str, length: int) -> None:
    try:
        written(caption, length)
    except DataError as error:
        raise DataError(f"captions: {error}") from error


def _open(codec: str, space: Space) -> Decoder:
    """Opens the decoder of a run. It must turn images of this space into tokens."""
    try:
        decoder, _ = open_decoder(codec)
    except RunError as error:
        raise ConfigError(f"captions: codec: {error}") from error
    if decoder.latent_space.kind != "tokens":
        raise ConfigError(
            f"captions: codec: the latents of {codec} are {decoder.latent_space}, not tokens: give a run whose decoder "
            "has tokens"
        )
    if decoder.image_space != space:
        raise ConfigError(
            f"captions: codec: the images of {codec} are {decoder.image_space}, but the images to caption are {space}"
        )
    return decoder
