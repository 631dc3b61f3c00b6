"""Vector quantization (van den Oord et al. 2017) with a codebook of running means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops
from pydantic import Field, PositiveInt
from scipy.cluster.vq import kmeans2

from kgen import SeedGenerator
from kgen.backend.replicas import first_replica, sum_over_replicas

Tensor = Any
EPSILON = 1e-5
"""Laplace smoothing, which keeps the mean of an unused code finite."""


@dataclass(frozen=True, kw_only=True)
class Vector:
    """Replaces each vector by the nearest code of a codebook.

    Args:
        size: Number of codes.
        dim: Dimension of a code.
        decay: Decay per step of the running counts and sums, whose quotients are the codes.
        commitment: Weight of the squared distance of vectors from their codes.
        cosine: Whether vectors and codes are normalized to length 1, and so compared by direction (Yu et al. 2022).
        revive: Share of the mean running count. A code whose count falls below it is moved to a vector of the batch. 0
            means never.
    """

    size: PositiveInt = 512
    dim: PositiveInt = 8
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    commitment: Annotated[float, Field(ge=0)] = 0.25
    cosine: bool = False
    revive: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @property
    def vocabulary(self) -> int:
        return self.size

    def build(self) -> VectorQuantizer:
        return VectorQuantizer(self, dtype="float32", name="quantizer")


class VectorQuantizer(keras.layers.Layer):
    """The codebook and its updates (appendix A.1 of the paper). `kgen_plugin_codecs.quantizers` describes its call."""

    def __init__(self, options: Vector, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options = options
        self.seed_generator = SeedGenerator()

    def build(self, z_shape: Any = None) -> None:
        size, dim = self.options.size, self.options.dim
        state = {"trainable": False, "aggregation": "only_first_replica"}
        start = keras.initializers.RandomNormal(stddev=1.0)((size, dim))
        start = ops.convert_to_numpy(_unit(start) if self.options.cosine else start)
        self.codebook = self.add_weight(name="codebook", shape=(size, dim), initializer="zeros", **state)
        self.sums = self.add_weight(name="sums", shape=(size, dim), initializer="zeros", **state)
        self.counts = self.add_weight(name="counts", shape=(size,), initializer="ones", **state)
        self.set_codebook(start)

    def set_codebook(self, codebook: np.ndarray) -> None:
        """Resets the codebook to codes (size, dim), each with a count of one vector."""
        self.codebook.assign(codebook)
        self.sums.assign(codebook)
        self.counts.assign(np.ones(len(codebook), "float32"))

    def start_from(self, vectors: np.ndarray) -> None:
        """Resets the codebook to the centers of clusters of vectors (N, dim), where N is more than `size`."""
        if self.options.cosine:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
        centers, _ = kmeans2(vectors.astype(np.float64), self.options.size, iter=10, minit="points", seed=0)
        if self.options.cosine:
            centers /= np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-6)
        self.set_codebook(centers.astype("float32"))

    def call(self, z: Tensor, training: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        shape = ops.shape(z)
        z = _unit(z) if self.options.cosine else z
        vectors = ops.reshape(z, (-1, self.options.dim))  # (N, D)
        nearest = self._nearest(ops.stop_gradient(vectors))  # (N,)
        codes = ops.reshape(nearest, shape[:-1])
        quantized = self.lookup(codes)
        commitment = self.options.commitment * ops.mean(ops.square(z - ops.stop_gradient(quantized)), axis=(1, 2, 3))
        if training and self.trainable:
            self._follow(ops.stop_gradient(vectors), nearest)
        return z + ops.stop_gradient(quantized - z), codes, commitment

    def lookup(self, codes: Tensor) -> Tensor:
        """(B, h, w) int32 -> (B, h, w, D)."""
        return ops.take(self.codebook, codes, axis=0)

    def _nearest(self, vectors: Tensor) -> Tensor:
        book = ops.convert_to_tensor(self.codebook)
        likeness = ops.matmul(vectors, ops.transpose(book))  # (N, K)
        distance = ops.sum(ops.square(book), axis=1)[None] - 2.0 * likeness  # minus |vector|^2, which is constant
        return ops.cast(ops.argmin(distance, axis=1), "int32")

    def _follow(self, vectors: Tensor, nearest: Tensor) -> None:
        """Moves each code toward the mean of the vectors that are assigned to it, over all replicas."""
        size, decay = self.options.size, self.options.decay
        chosen = ops.one_hot(nearest, size, dtype="float32")  # (N, K)
        count = sum_over_replicas(ops.sum(chosen, axis=0))  # (K,)
        total = sum_over_replicas(ops.matmul(ops.transpose(chosen), vectors))  # (K, D)
        counts = decay * self.counts + (1.0 - decay) * count
        sums = decay * self.sums + (1.0 - decay) * total
        whole = ops.sum(counts)
        smoothed = (counts + EPSILON) / (whole + size * EPSILON) * whole
        book = sums / smoothed[:, None]
        book = _unit(book) if self.options.cosine else book
        if self.options.revive:
            mean = whole / size
            dead = ops.cast(counts < self.options.revive * mean, "float32")  # (K,)
            fresh = self._some(vectors)
            book = book + dead[:, None] * (fresh - book)
            counts = counts + dead * (mean - counts)
            sums = sums + dead[:, None] * (fresh * mean - sums)
        self.codebook.assign(book)
        self.sums.assign(sums)
        self.counts.assign(counts)

    def _some(self, vectors: Tensor) -> Tensor:
        """Samples vectors (size, D) of this batch. All replicas use those of the first replica."""
        numbers = keras.random.uniform((self.options.size,), seed=self.seed_generator)
        count = ops.cast(ops.shape(vectors)[0], "float32")
        rows = ops.minimum(ops.cast(numbers * count, "int32"), ops.shape(vectors)[0] - 1)
        return first_replica(ops.take(vectors, rows, axis=0))


def _unit(x: Tensor) -> Tensor:
    return x * ops.rsqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1e-12)
