"""A function of a batch as one compiled program."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras
import numpy as np

from kgen.backend.devices import compile_sampling
from kgen.backend.programs import program_batch
from kgen.backend.stream import Batch, slices, stream

Tensor = Any


class Compiled(keras.Model):  # type: ignore[misc]
    """A function of a batch and of the weights of some layers, which Keras's `predict` compiles as a whole.

    Attributes:
        sizes: The batch sizes that were compiled, by the form of the batch.

    Args:
        function: Maps a batch of tensors to tensors with a batch axis, nested in any way.
        layers: All layers whose weights the function reads. They are shared, not copied.
        loops: Whether the function takes several consecutive steps, which XLA makes faster also on a CPU.
    """

    def __init__(
        self, function: Callable[[Any], Any], layers: Sequence[keras.layers.Layer], loops: bool = False
    ) -> None:
        super().__init__(autocast=False)
        self.parts = list(layers)
        object.__setattr__(self, "function", function)  # keeps Keras from wrapping it
        object.__setattr__(self, "sizes", defaultdict(set))
        self.built = True
        self.compile(jit_compile=compile_sampling(2 if loops else 1))

    def call(self, batch: Any) -> Any:
        return self.function(batch)

    def run(self, batch: Batch, count: int, batch_size: int, verbose: int = 0) -> Any:
        """Computes the function of `count` rows.

        Args:
            batch: Arrays (count, ...), nested in any way.
            count: Number of rows.
            batch_size: Largest number of rows in a batch. The last batch is padded: see `program_batch`.
            verbose: Verbosity, as in Keras: 1 shows a progress bar.

        Returns:
            Arrays (count, ...), nested as the function nests them.
        """
        compiled: set[int] = self.sizes[_form(batch)]
        compiled.add(size := program_batch(count, batch_size, compiled))
        batches = slices(batch, size)
        made = self.predict(stream(batches), steps=len(batches), verbose=verbose)
        return keras.tree.map_structure(lambda array: np.asarray(array)[:count], made)


def repeated(value: float | Sequence[float], count: int) -> np.ndarray:
    """Repeats an option, a number or n numbers, for each row of a batch: float32 (count,) or (count, n)."""
    return np.full((count, *np.shape(value)), value, np.float32)


def _form(batch: Batch) -> Hashable:
    """The names, types and shapes of a batch's arrays, without their number of rows."""
    return repr(keras.tree.map_structure(lambda array: (str(array.dtype), array.shape[1:]), batch))
