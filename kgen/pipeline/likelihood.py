"""The likelihood that a pipeline gives to images, as a Keras model of its own, so that `predict` compiles it whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kgen.backend.devices import compile_sampling
from kgen.backend.programs import program_batch
from kgen.data.stream import slices, stream

if TYPE_CHECKING:
    from kgen.pipeline.pipeline import Pipeline


class Likelihood(keras.Model):  # type: ignore[misc]
    """Images and tokens -> nats, with one set of static options. Shares the weights of the pipeline.

    Args:
        options: Of `log_likelihood`, those that are compiled in: see `split_options`.
    """

    def __init__(self, pipeline: Pipeline, options: dict[str, Any]) -> None:
        super().__init__(autocast=False)
        self.encoder = pipeline.encoder
        self.generator = pipeline.generator
        self.decoder = pipeline.decoder
        object.__setattr__(self, "options", options)  # plain values, which Keras must not wrap
        self.built = True
        self.compile(jit_compile=compile_sampling())

    def call(self, batch: dict[str, Any]) -> Any:
        latent = self.decoder.encode(batch["image"])
        numbers = {name: values[0] for name, values in batch.get("numbers", {}).items()}
        return self.generator.log_likelihood(latent, self.encoder(batch["tokens"]), **self.options, **numbers)

    def measure(self, batch: dict[str, Any], numbers: dict[str, float], batch_size: int) -> np.ndarray:
        """Runs on N rows, at most `batch_size` together. The last batch is filled up: see `program_batch`."""
        count = len(batch["image"])
        if numbers:
            batch = {**batch, "numbers": {name: np.full(count, value, np.float32) for name, value in numbers.items()}}
        batches = slices(batch, program_batch(count, batch_size))
        return np.asarray(self.predict(stream(batches), steps=len(batches), verbose=0))[:count]


def bits_per_dimension(log_likelihood: np.ndarray, size: int) -> np.ndarray:
    """Nats of whole pictures -> bits for each of their `size` numbers. Uniform over 8-bit numbers: 8."""
    return -np.asarray(log_likelihood) / (size * math.log(2.0))
