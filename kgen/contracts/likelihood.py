"""Checks whether a generator and a decoder give a likelihood of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kgen.errors import ConfigError

if TYPE_CHECKING:
    from kgen.contracts.decoder import Decoder
    from kgen.contracts.generator import Generator


def check_likelihood(generator: type[Generator], decoder: type[Decoder]) -> None:
    """Raises ConfigError if the generator has no likelihood, or the decoder is not lossless."""
    if generator.likelihood is None:
        raise ConfigError(f"{generator.__name__} has no likelihood: it can only be compared by its images")
    if not decoder.lossless:
        raise ConfigError(f"{decoder.__name__} is not lossless: the likelihood of a latent is not that of the image")
