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
    ``**kwargs`` (Keras's ``name`` and ``dtype``) to ``super().__init__``. An encoder whose weights are not to be
    trained sets ``self.trainable = False``: its outputs may then be cached.

    Life of an encoder: ``__init__``; ``adapt`` or ``load_assets``; only then weights are built, and `condition_space`
    must be known.

    Attributes:
        weights_are_external: True where the weights come from elsewhere (a preset, a folder). kgen does not save them.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {"__init__": Arguments(reserved=frozenset({"name"}))}
    largest_option = MAX_OPTION

    weights_are_external: bool = False

    @property
    def condition_space(self) -> ConditionSpace:
        """The shape of one condition."""
        raise NotImplementedError

    def adapt(self, texts: Sequence[str]) -> None:
        """Learns from the training captions what is not a weight: a vocabulary, the classes. Default: nothing."""

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Turns B texts into arrays of fixed shapes (B, ...), on the host, without a tensor library.

        The empty text must be accepted: it stands for "no condition" in classifier-free guidance.
        """
        raise NotImplementedError

    def unread(self, text: str) -> str:
        """Says what of a text `tokenize` leaves out ("only the first 31 of its 40 words are read"), or "".

        A run counts the captions that are not read whole, and `Pipeline.generate` warns of such prompts. Default: "".
        """
        return ""

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
