"""A function of a batch as one compiled program."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras
import numpy as np

from kgen.backend.devices import compile_sampling
from kgen.backend.gradients import no_registered_gradients
from kgen.backend.programs import XlaPrograms, program_batch
from kgen.backend.stream import Batch, slices, stream

Tensor = Any

xla_programs = XlaPrograms()
"""The programs of this process that XLA compiles."""


class Compiled(keras.Model):  # type: ignore[misc]
    """A function of a batch and of the weights of some layers, which Keras's `predict` compiles as a whole.

    Attributes:
        sizes: The batch sizes that were compiled, by the form of the batch.

    Args:
        function: Maps a batch of tensors to tensors with a batch axis, nested in any way.
        layers: All layers whose weights the function reads. They are shared, not copied.
        looped: The layer that takes several consecutive steps, if there is one: see `compile_sampling`.
        calls_host: Whether the function uses `call_on_host`.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        layers: Sequence[keras.layers.Layer],
        looped: keras.layers.Layer | None = None,
        calls_host: bool = False,
    ) -> None:
        super().__init__(autocast=False)
        self.parts = list(layers)
        object.__setattr__(self, "function", function)  # keeps Keras from wrapping it
        object.__setattr__(self, "sizes", defaultdict(set))
        self.built = True
        compilable = not calls_host or keras.backend.backend() != "tensorflow"  # XLA there cannot call Python
        self.compile(jit_compile=compilable and compile_sampling(looped) and xla_programs.admit())

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
        with no_registered_gradients():  # so that a program that is dropped can be deleted
            made = self.predict(stream(batches), steps=len(batches), verbose=verbose)
        return keras.tree.map_structure(lambda array: np.asarray(array)[:count], made)


class Snapshot:
    """The weights of a frozen layer, for programs that run in other threads while a model with this layer trains.

    On JAX, the training step takes the memory of all variables of the model, so that no other thread can read them. The
    weights are therefore copied. TensorFlow and PyTorch leave them in place, so that they are shared.

    Args:
        layer: The layer. All of its weights exist.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        self._layer = layer
        self._running = threading.Lock()  # one program at a time, because Keras compiles it in its first call
        self._copies = [keras.ops.copy(variable.value) for variable in _copied_variables(layer)]

    def program(self, function: Callable[[Any], Any]) -> Callable[[Batch], Any]:
        """Compiles a function that maps a batch of tensors to tensors, with these weights. Any thread can call it."""
        if self._copies:
            run = _stateless(function, self._layer, self._copies)
        else:
            run = Compiled(function, [self._layer]).predict_on_batch

        def call(batch: Batch) -> Any:
            with self._running:
                return keras.tree.map_structure(keras.ops.convert_to_numpy, run(batch))

        return call


def snapshot_bytes(layer: keras.layers.Layer) -> int:
    """The size of the weights that a `Snapshot` copies; 0 if it shares them."""
    return sum(variable.value.nbytes for variable in _copied_variables(layer))


def _copied_variables(layer: keras.layers.Layer) -> list[Any]:
    return list(layer.variables) if keras.backend.backend() == "jax" else []


def _stateless(
    function: Callable[[Any], Any], layer: keras.layers.Layer, values: Sequence[Any]
) -> Callable[[Batch], Any]:
    """On JAX, the program of a function that uses `values` in place of the variables of a layer."""
    import jax

    def called(values: Sequence[Any], batch: Batch) -> Any:
        with keras.StatelessScope(list(zip(layer.variables, values, strict=True))):
            return function(batch)

    compiled = jax.jit(called)
    return lambda batch: compiled(values, batch)


def call_on_host(function: Callable[..., None], *values: Tensor) -> None:
    """Calls a Python function with arrays whenever a program computes them, in the order of the computations.

    On JAX and TensorFlow, another thread makes the calls. The program must run on one device: see `batch_devices`.

    Args:
        function: The function; it receives an np.ndarray for each tensor.
        values: The tensors.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        from jax.experimental import io_callback

        io_callback(lambda *arrays: function(*map(np.asarray, arrays)), None, *values, ordered=True)
    elif backend == "tensorflow":
        import tensorflow as tf

        tf.py_function(lambda *tensors: function(*(tensor.numpy() for tensor in tensors)), values, [])
    else:
        function(*map(keras.ops.convert_to_numpy, values))


def repeated(value: float | Sequence[float], count: int) -> np.ndarray:
    """Repeats an option, a number or n numbers, for each row of a batch: float32 (count,) or (count, n)."""
    return np.full((count, *np.shape(value)), value, np.float32)


def _form(batch: Batch) -> Hashable:
    """The names, types and shapes of a batch's arrays, without their number of rows."""
    return repr(keras.tree.map_structure(lambda array: (str(array.dtype), array.shape[1:]), batch))
