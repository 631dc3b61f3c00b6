"""The contract of the encoder, which turns a text, a label or an image into a condition."""

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
"""Keys of a run file that cannot be options of an encoder: its name, and its dropout if it is joined with others."""


class Encoder(Configurable, keras.layers.Layer):  # type: ignore[misc]
    """Turns captions, or other fields of the examples, into conditions.

    An input is the value of the field that `fields` names: a text for "caption", an array for "image". If an encoder
    reads several fields, an input is a mapping of them. A prompt is an input, too.

    A subclass takes its options as keyword arguments of ``__init__``, stores each under its own name, and passes
    ``**kwargs`` (Keras's ``name`` and ``dtype``) to ``super().__init__``. An encoder with frozen weights sets
    ``self.trainable = False``; kgen may then cache its outputs.

    kgen calls ``__init__`` first, then ``adapt`` or ``load_assets``. After that, `condition_space` must be known, and
    kgen builds the weights.

    Attributes:
        fields: The fields of an example that the encoder reads (see `Dataset`). An encoder that reads "image" gets the
            image that is to be generated. The generator then learns to reconstruct it from the condition, and the
            images of a prompt are variations of that image.
        null: The null input: the empty text, or None if the field is not a text. In training, its condition replaces a
            share of the conditions. Classifier-free guidance leads away from it.
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
        """Learns a vocabulary, or anything else that is not a weight, from the training inputs. Default: nothing.

        Images are read when they are accessed: an encoder that only needs their size accesses one of them.
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
        """Reads the value of a field from the command line or a run file, such as an image from its path.

        Default: the text itself.

        Raises:
            ConfigError, DataError: the text does not specify a value.
        """
        return text

    def parts(self) -> tuple[Encoder, ...]:
        """The encoders that are joined in this one; the encoder itself if it joins none.

        This is a method because Keras visits all attributes to load weights, and would recurse forever.
        """
        return (self,)

    @property
    def shows_null(self) -> bool:
        """Whether training shows the null condition even if a pipeline has no `condition_dropout`."""
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
            training: Whether the call is part of the training, as in Keras.

        Returns:
            "sequence" (B, L, D), "mask" (B, L) and "pooled" (B, P), in float, of the shapes in `condition_space`. The
            mask is 1.0 for a real position and 0.0 for padding; at least one position is real.
        """
        raise NotImplementedError

    def save_assets(self, path: str | Path) -> None:
        """Writes what `adapt` learned to the folder `path`. Default: nothing."""

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote. Called before any weight exists. Default: nothing."""
