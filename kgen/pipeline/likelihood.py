"""The likelihood that a pipeline gives to images, as one compiled program."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kgen.backend.compiled import Compiled
from kgen.backend.stream import Batch
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.contracts.generator import Generator

Tensor = Any


class Likelihood:
    """Images and tokens -> nats, with one set of static options. Shares the weights of the three parts.

    Args:
        options: Of `log_likelihood`, those that are compiled in: see `split_options`.
    """

    def __init__(self, encoder: Encoder, generator: Generator, decoder: Decoder, options: dict[str, Any]) -> None:
        self.encoder = encoder
        self.generator = generator
        self.decoder = decoder
        self.options = options
        self.program = Compiled(self._log_likelihood, [encoder, generator, decoder])

    def _log_likelihood(self, batch: Batch) -> Tensor:
        latent = self.decoder.encode(batch["image"])
        numbers = {name: values[0] for name, values in batch.get("numbers", {}).items()}
        return self.generator.log_likelihood(latent, self.encoder(batch["tokens"]), **self.options, **numbers)

    def measure(self, batch: Batch, numbers: dict[str, float], batch_size: int) -> np.ndarray:
        """Computes (N,) nats of N rows, at most `batch_size` together."""
        count = len(batch["image"])
        if numbers:
            batch = {**batch, "numbers": {name: np.full(count, value, np.float32) for name, value in numbers.items()}}
        return np.asarray(self.program.run(batch, count, batch_size))


def bits_per_dimension(log_likelihood: np.ndarray, size: int) -> np.ndarray:
    """Nats of whole images -> bits for each of their `size` numbers. Uniform over 8-bit numbers: 8."""
    return -np.asarray(log_likelihood) / (size * math.log(2.0))
