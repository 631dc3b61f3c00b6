"""The models that train an encoder or a decoder before the generator, and the reconstruction of images."""

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
from kgen.errors import ConfigError, PluginError
from kgen.options import supplied
from kgen.pipeline.loss_model import LossModel
from kgen.pixels import floats, to_uint8
from kgen.random import sample
from kgen.spaces import Space

Tensor = Any
Batch = dict[str, Any]


def uses_encoder(decoder: Decoder | type[Decoder]) -> bool:
    """Whether a decoder uses the encoder of the pipeline: it reads the conditions, or shares the encoder's weights."""
    taken = supplied(decoder if isinstance(decoder, type) else type(decoder))
    return "condition_space" in taken or "encoder" in taken


class EncoderModel(LossModel):
    """Trains an encoder on images and their inputs, by Keras's `fit`, before a pipeline uses it.

    A batch is a dict with "image", uint8 (B, H, W, C) or float in [-1, 1], and "tokens", from `encoder.tokenize`.

    Args:
        encoder: An encoder that implements `compute_losses`, and has its assets.
        image_space: The space of the images.

    Raises:
        ConfigError: the encoder has no weight to train.
        PluginError: `compute_losses` creates weights.
    """

    def __init__(self, encoder: Encoder, image_space: Space, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder
        self.set_untracked("image_space", image_space)
        self.build()
        if not encoder.trainable_weights:
            raise ConfigError(f"encoder {type(encoder).__name__} is frozen: there is nothing to train")

    @weights_fit()
    def build(self, input_shape: Any = None) -> None:
        """Creates every weight, and a tracker for each of the encoder's losses."""
        if self.built:  # type: ignore[has-type]
            return
        tokens = {name: ops.convert_to_tensor(array) for name, array in self.encoder.null_tokens().items()}
        self.encoder(tokens)  # not only traced, which would lose what a frozen part assigns when it is built
        images, count = ops.zeros((1, *self.image_space.shape)), len(self.encoder.variables)
        losses = create_weights(
            lambda images, tokens: self.encoder.compute_losses(images, tokens, training=False), images, tokens
        )
        if len(self.encoder.variables) != count:
            raise PluginError(
                f"{type(self.encoder).__name__}.compute_losses creates weights: the first call must create all weights"
            )
        self.track(losses, self.encoder)
        self.built = True

    def call(self, batch: Batch, training: bool = False) -> dict[str, Tensor]:
        """Computes the losses of every example: arrays (B,)."""
        return self.encoder.compute_losses(floats(batch["image"]), batch["tokens"], training=training)


class DecoderModel(LossModel):
    """Trains a decoder on images, by Keras's `fit`.

    A batch is a dict with "image", uint8 (B, H, W, C) or float in [-1, 1]. For a decoder that uses the encoder, it
    also has "tokens" or "condition", as for a `Pipeline`.

    Args:
        decoder: A decoder that implements `compute_losses`.
        encoder: The encoder of the pipeline, for a decoder that uses it. It is not trained.

    Raises:
        ConfigError: the decoder uses the encoder, but there is none, or it is not trained yet.
    """

    def __init__(self, decoder: Decoder, encoder: Encoder | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.decoder = decoder
        self.decoder.trainable = True
        self.encoder = encoder if uses_encoder(decoder) else None
        if self.encoder is not None and not self.encoder.built:
            self.encoder.null_condition()
        if uses_encoder(decoder) and (encoder is None or encoder.trainable_weights):
            raise ConfigError(
                f"decoder {type(decoder).__name__} uses the encoder, which must not change later: use an encoder that "
                "is trained and frozen"
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
        condition = {} if self.encoder is None else self.encoder.null_condition()
        losses = create_weights(
            lambda images, condition: self.decoder.compute_losses(images, condition, training=False), images, condition
        )
        self.track(losses, self.decoder)
        self.built = True

    @property
    def training_variables(self) -> list[Any]:
        """All variables except those of the encoder."""
        foreign = {id(variable) for variable in self.encoder.variables} if self.encoder else set()
        return [variable for variable in self.variables if id(variable) not in foreign]

    def call(self, batch: Batch, training: bool = False) -> dict[str, Tensor]:
        """Computes the losses of every example: arrays (B,)."""
        return self.decoder.compute_losses(floats(batch["image"]), condition_of(self.encoder, batch), training=training)


def condition_of(encoder: Encoder | None, batch: Batch) -> Condition:
    """The conditions of a batch, for a decoder; {} if it does not use the encoder."""
    if encoder is None:
        return {}
    return batch["condition"] if "condition" in batch else encoder(batch["tokens"])  # type: ignore[no-any-return]


class Reconstructor:
    """Encodes and decodes images, with one set of options.

    Args:
        decoder: The decoder, whose weights are shared.
        encoder: The encoder of the pipeline, for a decoder that uses it.
        options: Validated options of `decode`.
    """

    def __init__(
        self, decoder: Decoder, encoder: Encoder | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self.decoder = decoder
        self.encoder = encoder if uses_encoder(decoder) else None
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
        """Encodes and decodes images.

        Args:
            images: uint8 (N, H, W, C).
            prompts: N inputs of the encoder. A decoder that does not use the encoder ignores them.
            seed: The seed of the decoder's noise.
            batch_size: Largest number of images in a batch.

        Returns:
            Latents (N, *latent_space.shape), and images, uint8 (N, H, W, C).
        """
        return self._run({"image": images}, prompts, seed, batch_size)

    def decode(self, latents: np.ndarray, prompts: Sequence[Any], *, seed: int = 0, batch_size: int = 32) -> np.ndarray:
        """Decodes latents (N, *latent_space.shape) to images, uint8 (N, H, W, C)."""
        return self._run({"latent": latents}, prompts, seed, batch_size)[1]

    def _run(self, batch: Batch, prompts: Sequence[Any], seed: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        count = len(prompts)
        noise = sample(self.decoder.noise_spec(**self.options), [(seed, copy) for copy in range(count)])
        batch |= {"noise": noise} if noise else {}
        batch |= {} if self.encoder is None else {"tokens": self.encoder.tokenize(list(prompts))}
        made = self.program.run(batch, count, batch_size)
        return made["latent"], to_uint8(made["image"])
