"""Batches in the form that Keras's loops process fastest."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from kgen.backend.devices import shared_batch

Batch = dict[str, Any]


def stream(batches: Iterable[Batch]) -> Any:
    """Prepares batches for one `fit`, `evaluate` or `predict`.

    On TensorFlow, they become a tf.data.Dataset without autotuning. The dataset that Keras makes has autotuning, in a
    thread that sleeps twice as long each time, and that the loop waits for at its end: this took 1.3 s for 0.7 s of
    sampling.

    Args:
        batches: Nested dicts of arrays (B, ...). All batches have the same shapes except for B, unless they are
            `Watched` with `several_shapes`. On TensorFlow, they are iterated once more, to read the shapes from the
            first batch.
    """
    if keras.backend.backend() != "tensorflow":
        return _once(batches) if isinstance(batches, Sequence | Watched) else batches
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    if isinstance(batches, Sequence) and len(batches) == 1:  # a generator needs four more traced functions
        rows = len(keras.tree.flatten(batches[0])[0])
        return tf.data.Dataset.from_tensor_slices(batches[0]).batch(rows).with_options(options)
    return tf.data.Dataset.from_generator(lambda: batches, output_signature=signature(batches)).with_options(options)


class Watched:
    """Reads batches ahead, so that an error is found before the step whose batch cannot be read.

    An error inside of Keras's loops would end them in the middle of a step, with the weights from before it and the
    random numbers from after it; TensorFlow would wrap it in another error. Here, the error is stored in `failure`, the
    last batch is repeated, and `raise_failure` is called after each step. An error in the first batch is raised at
    once.

    Args:
        batches: The batches.
        several_shapes: Whether the batches differ in more than their number of rows.
        group: Number of batches that are used in one call, after which `raise_failure` is called. A group is complete,
            or it counts as one that cannot be read, and as many batches are read ahead.

    Attributes:
        waited: The time that was spent on waiting for batches so far, in seconds.
    """

    def __init__(self, batches: Iterable[Batch], several_shapes: bool = False, group: int = 1) -> None:
        self.batches = batches
        self.several_shapes = several_shapes
        self.group = group
        self.waited = 0.0
        self.failure: tuple[int, Exception] | None = None
        """The number of batches in the groups that could be read, and the error in the next one."""

    def __iter__(self) -> Iterator[Batch]:
        self.failure = None
        source = iter(self.batches)
        ready = deque[Batch]()  # the next batches
        used = 0
        while True:
            try:
                while len(ready) <= self.group and (batch := self._next(source)) is not None:
                    ready.append(batch)
            except Exception as error:
                read = used + len(ready)
                if (complete := read - read % self.group) == 0:
                    raise
                self.failure = (complete, error)
                *rest, last = itertools.islice(ready, complete - used)
                yield from rest
                while True:
                    yield last
            if not ready:
                return
            yield ready.popleft()
            used += 1

    def _next(self, source: Iterator[Batch]) -> Batch | None:
        began = time.perf_counter()
        try:
            return next(source, None)
        finally:
            self.waited += time.perf_counter() - began

    def raise_failure(self, count: int) -> None:
        """Raises the error if at most `count` batches could be read."""
        if self.failure is not None and self.failure[0] <= count:
            raise self.failure[1]


def signature(batches: Iterable[Batch]) -> Any:
    """The tf.TensorSpec of each array in the batches, for TensorFlow."""
    import tensorflow as tf

    def spec(array: np.ndarray) -> Any:
        differs = array.ndim > 2 and getattr(batches, "several_shapes", False)
        return tf.TensorSpec((None,) * array.ndim if differs else (None, *array.shape[1:]), array.dtype)

    return tf.nest.map_structure(spec, next(iter(batches)))


def slices(arrays: Batch, size: int) -> list[Batch]:
    """Cuts nested arrays (N, ...) into batches of `size` rows, and pads the last one with the first rows.

    If several devices share a batch, `size` is rounded up to a number that they can divide evenly.
    """
    count, size = len(keras.tree.flatten(arrays)[0]), shared_batch(size)
    rows = np.arange(-(-count // size) * size) % count
    return [keras.tree.map_structure(lambda a, part=part: a[part], arrays) for part in rows.reshape(-1, size)]


def _once(batches: Iterable[Batch]) -> Iterator[tuple[Batch]]:
    for batch in batches:
        yield (batch,)  # Keras does not accept dicts from a generator
