"""A loop that runs the same operations in each iteration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

MIN_ITERATIONS = 4
"""Number of iterations from which PyTorch records one of them."""


def fori_loop(lower: int, upper: int, body: Callable[[Any, Any], Any], state: Any) -> Any:
    """`keras.ops.fori_loop`, whose iterations PyTorch records and replays.

    Keras runs every operation on PyTorch through many lines of Python, which can take longer than the computation. If
    PyTorch keeps nothing for gradients, the first iteration therefore runs as usual, the second is recorded, and all
    others replay its calls of PyTorch. The results are the same. As on TensorFlow and JAX, Python code of the body does
    not run in each iteration. If it reads the value of a tensor (`if`, `float`, `numpy`), or generates random numbers
    other than those of `kgen.random.normal` and `uniform`, nothing is replayed, and each iteration runs as usual.

    Args:
        lower, upper: The first index, and the one after the last.
        body: Function from an index and the state to the next state. The index is a number or an int32 scalar: use it
            as a tensor, as in ``ops.take(x, index, axis=0)``.
        state: Tensors, nested in any way. Their shapes and types stay the same.

    Returns:
        The last state.
    """
    if keras.backend.backend() == "torch" and upper - lower >= MIN_ITERATIONS:
        from kgen.backend.loops.replay import replayed_loop

        return replayed_loop(lower, upper, body, state)
    return ops.fori_loop(lower, upper, body, state)


def slice_update(inputs: Any, start_indices: Sequence[Any], updates: Any) -> Any:
    """`keras.ops.slice_update`, which takes PyTorch less time if the start of one axis is a tensor.

    Keras would make arrays of the indices of all elements.

    Args:
        inputs: The tensor to be updated.
        start_indices: The start of the slice on each axis: a number, or an integer scalar such as the index of a loop.
        updates: The slice, with as many axes as `inputs`.
    """
    moving = [axis for axis, start in enumerate(start_indices) if not isinstance(start, int)]
    if keras.backend.backend() != "torch" or len(moving) != 1:
        return ops.slice_update(inputs, start_indices, updates)
    (axis,) = moving
    fixed = zip(start_indices, updates.shape, strict=True)
    window = tuple(slice(None) if n == axis else slice(start, start + size) for n, (start, size) in enumerate(fixed))
    positions = ops.arange(updates.shape[axis], dtype="int64") + start_indices[axis]
    made = inputs.clone()
    made[window].index_copy_(axis, positions, ops.cast(updates, inputs.dtype))
    return made
