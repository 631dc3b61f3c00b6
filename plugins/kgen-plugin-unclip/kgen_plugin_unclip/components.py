"""Principal components of embeddings, as a sequence of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any

RANGE = 4.0
"""The limits of the components before they are measured, in standard deviations of the latents."""


class QuantizedComponents(keras.layers.Layer):
    """The principal components of vectors, in falling order of variance, each quantized into buckets of equal width.

    The buckets of a component divide the range of its values in the training data. Values outside of it belong to the
    first or the last bucket. The weights are measured, and not trained. Before that, the components are the first axes.

    Args:
        dim: Dimension D of the vectors.
        count: Number N of components, at most D.
        buckets: Number of buckets of each component.
    """

    def __init__(self, dim: int, count: int, buckets: int, **kwargs: Any) -> None:
        super().__init__(trainable=False, autocast=False, **kwargs)
        self.dim = dim
        self.count = count
        self.buckets = buckets

    def build(self, input_shape: Any = None) -> None:
        def weight(name: str, shape: tuple[int, ...], initializer: Any) -> Any:
            return self.add_weight(
                name=name, shape=shape, initializer=initializer, dtype="float32", trainable=False, autocast=False
            )

        limits = keras.initializers.Constant
        self.mean = weight("mean", (self.dim,), "zeros")
        self.axes = weight("axes", (self.dim, self.count), keras.initializers.Identity())
        self.low, self.high = weight("low", (self.count,), limits(-RANGE)), weight("high", (self.count,), limits(RANGE))
        self.kept = weight("kept", (), "ones")
        self.built = True

    @property
    def share(self) -> float:
        """Share of the variance of the training data that the components keep, from 0 to 1."""
        return float(ops.convert_to_numpy(self.kept))

    def measure(self, vectors: Callable[[], Iterable[np.ndarray]]) -> None:
        """Measures the mean, the principal components and their ranges, in float64.

        Args:
            vectors: Returns batches (B, D) of all training vectors, the same ones in each call.
        """
        total, products, number = np.zeros(self.dim), np.zeros((self.dim, self.dim)), 0
        for batch in _doubles(vectors()):
            total += batch.sum(axis=0)
            number += len(batch)
        mean = total / number
        for batch in _doubles(vectors()):
            products += (batch - mean).T @ (batch - mean)
        variances, axes = np.linalg.eigh(products / number)  # in rising order
        axes = axes[:, ::-1][:, : self.count]
        axes = axes * np.where(axes.sum(axis=0) < 0, -1.0, 1.0)  # either sign is a solution
        projected = [(batch - mean) @ axes for batch in _doubles(vectors())]
        low, high = (
            np.min([x.min(axis=0) for x in projected], axis=0),
            np.max([x.max(axis=0) for x in projected], axis=0),
        )
        everything = max(float(variances.sum()), 1e-12)
        kept = min(float(variances[::-1][: self.count].sum()) / everything, 1.0)
        for variable, value in zip(
            (self.mean, self.axes, self.low, self.high, self.kept), (mean, axes, low, high, kept), strict=True
        ):
            variable.assign(np.asarray(value, np.float32))

    def encode(self, x: Tensor) -> Tensor:
        """Vectors (B, D) -> tokens (B, N) int32, from 0 to `buckets` - 1."""
        values = ops.matmul(ops.cast(x, "float32") - self.mean, self.axes)  # (B, N)
        tokens = ops.floor((values - self.low) / self._width())
        return ops.cast(ops.clip(tokens, 0, self.buckets - 1), "int32")

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) -> vectors (B, D) float32: the middles of the buckets."""
        values = self.low + (ops.cast(tokens, "float32") + 0.5) * self._width()
        return self.mean + ops.matmul(values, ops.transpose(self.axes))

    def _width(self) -> Tensor:
        """The width of the buckets of each component, (N,)."""
        return ops.maximum(self.high - self.low, 1e-6) / self.buckets


class Quantiles(keras.layers.Layer):
    """Buckets of numbers that contain equally many of the training data. The limits are measured, and not trained.

    Args:
        buckets: Number of buckets.
    """

    def __init__(self, buckets: int, **kwargs: Any) -> None:
        super().__init__(trainable=False, autocast=False, **kwargs)
        self.buckets = buckets

    def build(self, input_shape: Any = None) -> None:
        first = np.linspace(-1.0, 1.0, self.buckets + 1, dtype=np.float32)[1:-1]
        self.limits = self.add_weight(
            name="limits",
            shape=first.shape,
            initializer=_values(first),
            dtype="float32",
            trainable=False,
            autocast=False,  # mixed precision must not round the limits
        )
        self.built = True

    def measure(self, numbers: np.ndarray) -> None:
        """Measures the limits from numbers (M,)."""
        shares = np.arange(1, self.buckets) / self.buckets
        self.limits.assign(np.quantile(numbers.astype(np.float64), shares).astype(np.float32))

    def call(self, numbers: Tensor) -> Tensor:
        """Numbers (B,) -> their buckets (B,) int32, from 0 to `buckets` - 1."""
        return ops.sum(ops.cast(ops.cast(numbers, "float32")[:, None] > self.limits, "int32"), axis=-1)


def _values(array: np.ndarray) -> Callable[..., Tensor]:
    return lambda shape, dtype=None: ops.convert_to_tensor(array, dtype)


def _doubles(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    return (np.asarray(batch, np.float64) for batch in batches)
