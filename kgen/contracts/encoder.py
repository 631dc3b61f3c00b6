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
    ``**kwargs`` (Keras's ``name`` and ``dtype``) to ``super().__init__``. An encoder whose weights are not to be
    trained sets ``self.trainable = False``: its outputs may then be cached.

    Life of an encoder: ``__init__``; ``adapt`` or ``load_assets``; only then weights are built, and `condition_space`
    must be known.

    Attributes:
        fields: The fields of an example that it reads (see `Dataset`). An encoder of "image" reads the image that is to
            be generated: training then learns to make an image again from what the encoder keeps of it, and a prompt is
            an image to be varied.
        null: The input that says nothing. Its condition is what classifier-free guidance leads away from, and what
            training shows in place of a share of the conditions. The empty text, or None where the field is no text.
        weights_are_external: True where the weights come from elsewhere (a preset, a folder). kgen does not save them.
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
        """Learns from the training inputs what is not a weight: a vocabulary, the classes. Default: nothing.

        Images are read when they are asked for, so an encoder that needs to know no more than their size asks for one.
        """

    def tokenize(self, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
        """Turns B inputs into arrays of fixed shapes (B, ...), on the host, without a tensor library.

        `null` must be accepted. An image may be of any size: prompts are.

        Raises:
            ConfigError: an input is none that can be read, such as an unknown class.
        """
        raise NotImplementedError

    def unread(self, value: Any) -> str:
        """Says what of an input `tokenize` leaves out ("only the first 31 of its 40 words are read"), or "".

        A run counts the captions that are not read whole, and `Pipeline.generate` warns of such prompts. Default: "".
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

        Returns:
            "sequence" (B, L, D), "mask" (B, L) of 1.0 for a real position and 0.0 for padding (at least one position is
            real), and "pooled" (B, P), as `condition_space` says; float.
        """
        raise NotImplementedError

    def save_assets(self, path: str | Path) -> None:
        """Writes what `adapt` learned into the folder `path`. Default: nothing."""

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote; called before any weight exists. Default: nothing."""
