"""The likelihood of images under a pipeline, as one compiled program."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kgen.backend.compiled import Compiled, repeated
from kgen.backend.stream import Batch
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.contracts.generator import Generator
from kgen.options.static import Numbers

Tensor = Any


class Likelihood:
    """Computes the log-likelihood of images in nats, given tokens, with one set of static options.

    Args:
        encoder, generator, decoder: The three parts, whose weights are shared.
        options: The static options of `log_likelihood`, which are compiled in: see `split_options`.
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

    def measure(self, batch: Batch, numbers: Numbers, batch_size: int) -> np.ndarray:
        """Computes the log-likelihood of N rows, (N,) nats, in batches of at most `batch_size`."""
        count = len(batch["image"])
        if numbers:
            batch = {**batch, "numbers": {name: repeated(value, count) for name, value in numbers.items()}}
        return np.asarray(self.program.run(batch, count, batch_size))


def bits_per_dimension(log_likelihood: np.ndarray, size: int) -> np.ndarray:
    """Converts log-likelihoods of images, in nats, to bits per dimension. Uniform 8-bit numbers have 8.

    Args:
        log_likelihood: (N,) nats per image.
        size: Number of dimensions of an image.
    """
    return -np.asarray(log_likelihood) / (size * math.log(2.0))
