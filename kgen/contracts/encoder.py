"""The contract of the first part: a text, a label, an image -> condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from kgen.options import MAX_OPTION, Arguments, Configurable
from kgen.spaces import ConditionSpace

Condition = dict[str, Any]

RESERVED = frozenset({"name", "condition_dropout"})
"""Keys beside an encoder's options in a run file: which it is, and its dropout, where it is one of several."""


class Encoder(Configurable, keras.layers.Layer):  # type: ignore[misc]
    """Turns what it reads of examples into conditions: their captions, or other fields.

    An input is what one example holds in the field that `fields` names: a text of "caption", an image of "image". Of an
    encoder that reads several fields, an input is a mapping of them. A prompt is an input, too.

    A subclass takes its options as keyword arguments of ``__init__``, stores each under its own name, and passes
    ``**kwargs`` (Keras's ``name`` and ``dtype``) to ``super().__init__``. An encoder with frozen weights sets
    ``self.trainable = False``; kgen may then cache its outputs.

    kgen calls ``__init__`` first, then ``adapt`` or ``load_assets``. After that, `condition_space` must be known, and
    kgen builds the weights.

    Attributes:
        fields: The fields of an example that it reads (see `Dataset`). An encoder of "image" reads the image that is to
            be generated: training then learns to make an image again from what the encoder keeps of it, and a prompt is
            an image to be varied.
        null: The input that says nothing. Its condition is what classifier-free guidance leads away from, and what
            training shows in place of a share of the conditions. The empty text, or None where the field is no text.
        weights_are_external: True if the weights come from elsewhere (a preset, a folder). kgen does not save them.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {"__init__": Arguments(reserved=RESERVED)}
    largest_option = MAX_OPTION

    fields: tuple[str, ...] = ("caption",)
    null: Any = ""
    weights_are_external: bool = False

    @property
    def condition_space(self) -> ConditionSpace:
        """The shape of one condition."""
        raise NotImplementedError

    def adapt(self, inputs: Sequence[Any]) -> None:
        """Learns from the training inputs what is not a weight, such as a vocabulary. Default: nothing.

        Images are read when they are asked for: an encoder that only needs their size asks for one.
        """

    def tokenize(self, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
        """Turns B inputs into numpy arrays of fixed shapes (B, ...), on the host.

        It must accept `null`, and images of any size.

        Raises:
            ConfigError: it cannot read an input, such as an unknown class.
        """
        raise NotImplementedError

    def unread(self, value: Any) -> str:
        """Says which part of an input `tokenize` leaves out ("only the first 31 of its 40 words are read"), or "".

        A run counts the captions that are not read completely, and `Pipeline.generate` warns of such prompts. Default:
        "".
        """
        return ""

    def parse(self, text: str, field: str) -> Any:
        """The value of a field as a user writes it, on the command line or in a run file: an image by its path.

        Default: the text itself.

        Raises:
            ConfigError, DataError: it stands for no such value.
        """
        return text

    @property
    def parts(self) -> tuple[Encoder, ...]:
        """The encoders that this one is made of; itself, where it is made of no others."""
        return (self,)

    @property
    def shows_null(self) -> bool:
        """Whether training shows the condition of `null` now and then, without a pipeline's `condition_dropout`."""
        return False

    def null_tokens(self) -> dict[str, np.ndarray]:
        """The tokens of `null`: arrays (1, ...)."""
        return self.tokenize([self.null])

    def null_condition(self) -> Condition:
        """The condition of `null`, with a batch axis of 1."""
        return self(self.null_tokens())  # type: ignore[no-any-return]

    def call(self, tokens: dict[str, Any], training: bool = False) -> Condition:
        """Encodes tokens.

        Args:
            tokens: The arrays of `tokenize`.
            training: As in Keras.

        Returns:
            "sequence" (B, L, D), "mask" (B, L) and "pooled" (B, P), in float, of the shapes in `condition_space`. The
            mask is 1.0 for a real position and 0.0 for padding; at least one position is real.
        """
        raise NotImplementedError

    def save_assets(self, path: str | Path) -> None:
        """Writes what `adapt` learned to the folder `path`. Default: nothing."""

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote. Called before any weight exists. Default: nothing."""
