"""A cache of conditions by example, for encoders that read images or other arrays.

To compare images with those of a cache, one would have to read all of them. The condition of an example is therefore
found by the place of the example in its dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import AllEncoderInputs, Visits, input_key
from kgen.data.cache import hash_of
from kgen.data.frozen.condition_rows import FORMAT, ConditionRows, Source, open_conditions
from kgen.data.frozen.filling import Filling, origin, provenance


class ExampleConditions(ConditionRows):
    """Conditions of examples. Row 0 is that of the null input; those of `AllEncoderInputs` follow, in their order.

    Args:
        folder: The folder of the cache.
        inputs: The inputs of all examples.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder does not exist, or is damaged.
    """

    def __init__(self, folder: Path, inputs: AllEncoderInputs) -> None:
        super().__init__(folder)
        self.examples = inputs

    def lookup(self, inputs: Sequence[Any], visits: Visits | None = None) -> dict[str, np.ndarray]:
        """The conditions of B inputs; see `read`.

        Args:
            inputs: The inputs, which are read only if their conditions are missing.
            visits: The examples that they are from; None: they are null inputs.

        Raises:
            DataError: a condition is missing or damaged, and cannot be computed now; an image is damaged, and the
                dataset does not skip it; or the disk is full.
            ValueError: `visits` is None, and an input is not the null input.
        """
        if visits is not None:
            return self.read([1 + place for place in self.examples.places(visits)], inputs)
        if any(map(input_key, inputs)):
            raise ValueError("the condition of an image is found by its example: `visits` says which one it is")
        return self.read([0] * len(inputs), inputs)


def cached_examples(
    encoder: Encoder, inputs: AllEncoderInputs, cache_dir: str | Path, filling: Filling | None = None
) -> ExampleConditions:
    """Opens the cache of the conditions of all examples of a dataset, and of the null input.

    The name of the cache is a hash of the encoder's class, configuration, precision, assets and weights, of the
    backend, and of the dataset's class, options and fingerprint.

    Args:
        encoder, cache_dir, filling: See `open_conditions`, also for errors.
        inputs: The inputs of all examples, which are read when they are needed.
    """
    return open_conditions(encoder, _Examples(encoder, inputs), cache_dir, filling)


class _Examples(Source[ExampleConditions]):
    def __init__(self, encoder: Encoder, inputs: AllEncoderInputs) -> None:
        self.encoder, self.inputs = encoder, inputs

    def __len__(self) -> int:
        return 1 + len(self.inputs)

    def key(self) -> str:
        read = {"fields": self.inputs.fields, "flip": self.inputs.flip}
        return hash_of({"format": FORMAT, **provenance(self.encoder), **origin(self.inputs.dataset), **read})

    def read(self, rows: Sequence[int]) -> list[Any]:
        inputs = [self.inputs[row - 1] if row else self.encoder.null for row in rows]
        return [dict(value) if isinstance(value, Mapping) else value for value in inputs]  # all fields are read now

    def open(self, folder: Path) -> ExampleConditions:
        return ExampleConditions(folder, self.inputs)
