"""A decoder as a model of its own: trained before the generator, and looked at by its reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from kgen.backend.compiled import Compiled
from kgen.backend.devices import create_weights
from kgen.backend.memory import weights_fit
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Condition, Encoder
from kgen.errors import ConfigError
from kgen.options import supplied
from kgen.pipeline.loss_model import LossModel
from kgen.pixels import floats, to_uint8
from kgen.random import sample

Tensor = Any
Batch = dict[str, Any]


def reads_text(decoder: Decoder | type[Decoder]) -> bool:
    """Whether a decoder is given the text too: it then takes `condition_space`."""
    return "condition_space" in supplied(decoder if isinstance(decoder, type) else type(decoder))


class DecoderModel(LossModel):
    """Trains a decoder on images, by Keras's `fit`.

    A batch is a dict: "image", uint8 (B, H, W, C) or float in [-1, 1]; and, for a decoder that reads the text, "tokens"
    or "condition", as for a `Pipeline`.

    Args:
        decoder: One that implements `compute_losses`.
        encoder: Of the texts, for a decoder that reads them; it is not trained.

    Raises:
        ConfigError: the decoder reads the text, but there is no encoder, or one that has yet to be trained.
    """

    def __init__(self, decoder: Decoder, encoder: Encoder | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.decoder = decoder
        self.decoder.trainable = True
        self.encoder = encoder if reads_text(decoder) else None
        if reads_text(decoder) and (encoder is None or (encoder.trainable and encoder.weights)):
            raise ConfigError(
                f"decoder {type(decoder).__name__} reads the text, which must mean the same later: use an encoder that "
                "is trained already, and frozen"
            )
        self.build()

    @weights_fit()
    def build(self, input_shape: Any = None) -> None:
        """Creates every weight, and a tracker for each of the decoder's losses."""
        if self.built:  # type: ignore[has-type]
            return
        if not self.decoder.built:
            self.decoder.build(None)
        images = ops.zeros((1, *self.decoder.image_space.shape))
        condition = {} if self.encoder is None else self.encoder(self.encoder.null_tokens())
        losses = create_weights(
            lambda images, condition: self.decoder.compute_losses(images, condition, training=False), images, condition
        )
        self.track(losses, self.decoder)
        self.built = True

    @property
    def training_variables(self) -> list[Any]:
        """Without those of the encoder."""
        foreign = {id(variable) for variable in self.encoder.variables} if self.encoder else set()
        return [variable for variable in self.variables if id(variable) not in foreign]

    def call(self, batch: Batch, training: bool = False) -> dict[str, Tensor]:
        """Computes the losses of every example: arrays (B,)."""
        return self.decoder.compute_losses(floats(batch["image"]), condition_of(self.encoder, batch), training=training)


def condition_of(encoder: Encoder | None, batch: Batch) -> Condition:
    """The batch's conditions, for a decoder: {} where it reads no text."""
    if encoder is None:
        return {}
    return batch["condition"] if "condition" in batch else encoder(batch["tokens"])  # type: ignore[no-any-return]


class Reconstructor:
    """Images -> latents -> images, with one set of options.

    Args:
        decoder: Shares its weights.
        encoder: Of the texts, for a decoder that reads them.
        options: Of `decode`, already checked.
    """

    def __init__(
        self, decoder: Decoder, encoder: Encoder | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self.decoder = decoder
        self.encoder = encoder if reads_text(decoder) else None
        self.options = dict(options or {})
        self.program = Compiled(self._reconstruct, [part for part in (decoder, self.encoder) if part is not None])

    def _reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        latent = batch["latent"] if "latent" in batch else self.decoder.encode(floats(batch["image"]))
        condition = condition_of(self.encoder, batch)
        images = self.decoder.decode(latent, condition, batch.get("noise", {}), **self.options)
        return {"latent": latent, "image": ops.clip(ops.cast(images, "float32"), -1.0, 1.0)}

    def reconstruct(
        self, images: np.ndarray, prompts: Sequence[Any], *, seed: int = 0, batch_size: int = 32
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes and decodes.

        Args:
            images: uint8 (N, H, W, C).
            prompts: N inputs of the encoder; only read for a decoder that reads the text.

        Returns:
            Latents (N, *latent_space.shape), and images uint8 (N, H, W, C).
        """
        return self._run({"image": images}, prompts, seed, batch_size)

    def decode(self, latents: np.ndarray, prompts: Sequence[Any], *, seed: int = 0, batch_size: int = 32) -> np.ndarray:
        """Latents (N, *latent_space.shape) -> images uint8 (N, H, W, C)."""
        return self._run({"latent": latents}, prompts, seed, batch_size)[1]

    def _run(self, batch: Batch, prompts: Sequence[Any], seed: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        count = len(prompts)
        noise = sample(self.decoder.noise_spec(**self.options), [(seed, copy) for copy in range(count)])
        batch |= {"noise": noise} if noise else {}
        batch |= {} if self.encoder is None else {"tokens": self.encoder.tokenize(list(prompts))}
        made = self.program.run(batch, count, batch_size)
        return made["latent"], to_uint8(made["image"])
