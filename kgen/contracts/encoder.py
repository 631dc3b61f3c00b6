"""The contract of the first part: text -> condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from kgen.options import MAX_OPTION, Arguments, Configurable
from kgen.spaces import ConditionSpace

Condition = dict[str, Any]


class Encoder(Configurable, keras.layers.Layer):  # type: ignore[misc]
    """Turns texts into conditions.

    A subclass takes its options as keyword arguments of ``__init__``, stores each under its own name, and passes
    ``**kwargs`` (Keras's ``name`` and ``dtype``) to ``super().__init__``. An encoder with frozen weights sets
    ``self.trainable = False``; kgen may then cache its outputs.

    kgen calls ``__init__`` first, then ``adapt`` or ``load_assets``. After that, `condition_space` must be known, and
    kgen builds the weights.

    Attributes:
        weights_are_external: True if the weights come from elsewhere (a preset, a folder). kgen does not save them.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {"__init__": Arguments(reserved=frozenset({"name"}))}
    largest_option = MAX_OPTION

    weights_are_external: bool = False

    @property
    def condition_space(self) -> ConditionSpace:
        """The shape of one condition."""
        raise NotImplementedError

    def adapt(self, texts: Sequence[str]) -> None:
        """Learns from the training captions what is not a weight, such as a vocabulary. Default: nothing."""

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Turns B texts into numpy arrays of fixed shapes (B, ...), on the host.

        It must accept the empty text, which means "no condition" in classifier-free guidance.
        """
        raise NotImplementedError

    def unread(self, text: str) -> str:
        """Says which part of a text `tokenize` leaves out ("only the first 31 of its 40 words are read"), or "".

        A run counts the captions that are not read completely, and `Pipeline.generate` warns of such prompts. Default:
        "".
        """
        return ""

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
