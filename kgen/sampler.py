"""The sampling half of a pipeline, as a Keras model of its own, so that `predict` compiles it whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pydantic
from keras import ops

from kgen.data.stream import slices, stream
from kgen.devices import compile_sampling
from kgen.errors import ConfigError
from kgen.images import floats
from kgen.random import NoiseSpec
from kgen.signature import option_model, options

if TYPE_CHECKING:
    from kgen.pipeline import Pipeline


class Sampler(keras.Model):  # type: ignore[misc]
    """Tokens, noise and perhaps images to start from -> images in [-1, 1], with one set of options.

    Of images to start from, a region may be all that is drawn anew. Shares the weights of the pipeline, which holds it.
    """

    def __init__(self, pipeline: Pipeline, options: dict[str, Any], decoder_options: dict[str, Any]) -> None:
        super().__init__(autocast=False)
        self.encoder = pipeline.encoder
        self.generator = pipeline.generator
        self.decoder = pipeline.decoder
        for name, value in (("null_tokens", pipeline.null_tokens), ("options", (options, decoder_options))):
            object.__setattr__(self, name, value)  # plain values, which Keras must not wrap
        self.built = True
        self.compile(jit_compile=compile_sampling(self.generator.drawing_steps(**options)))

    def call(self, batch: dict[str, Any]) -> Any:
        options, decoder_options = self.options
        condition = self.encoder(batch["tokens"])
        null = self.encoder(self.null_tokens)
        null = {name: ops.broadcast_to(null[name], ops.shape(value)) for name, value in condition.items()}
        source = {"source": self.decoder.encode(floats(batch["image"]))} if "image" in batch else {}
        source |= {"region": batch["region"]} if "region" in batch else {}
        latent = self.generator.generate(condition, null, batch.get("generator", {}), **source, **options)
        images = self.decoder.decode(latent, condition, batch.get("decoder", {}), **decoder_options)
        return ops.clip(ops.cast(images, "float32"), -1.0, 1.0)

    def sample(self, batch: dict[str, Any], batch_size: int, verbose: int = 0) -> np.ndarray:
        """Runs on N rows; the last batch is filled up, so that one program serves all."""
        count = len(next(iter(batch["tokens"].values())))
        batches = slices({name: arrays for name, arrays in batch.items() if len(arrays)}, batch_size)
        return np.asarray(self.predict(stream(batches), steps=len(batches), verbose=verbose))[:count]


def validate_options(part: Any, method: str, given: dict[str, Any] | Any) -> dict[str, Any]:
    """Checks options against the signature of `part.generate` or `part.decode`.

    Returns:
        The options, converted to their annotated types; those not given are left to the method's defaults.
    """
    name, function = type(part).__name__, getattr(type(part), method)
    if "guidance" in given and method == "generate" and not part.guidable:
        raise ConfigError(f"{name} takes no guidance: leave 'guidance' out")
    try:
        model = option_model(function, name)(**given)
    except pydantic.ValidationError as error:
        known = ", ".join(options(function)) or "none"
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors()]
        raise ConfigError(f"options of {name}.{method}: {'; '.join(lines)} (it takes: {known})") from error
    return {key: getattr(model, key) for key in given}


def noise_spec(part: Any, checked: Mapping[str, Any]) -> Mapping[str, NoiseSpec]:
    """The random numbers that a generator or decoder needs; ConfigError where the options do not go together."""
    try:
        return part.noise_spec(**checked)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ConfigError(f"options of {type(part).__name__}: {error}") from error
