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
from kgen.errors import ConfigError, PluginError, RunError
from kgen.options import supplied
from kgen.pipeline.loss_model import LossModel
from kgen.pipeline.sampler import noise_spec
from kgen.pixels import floats, to_uint8
from kgen.random import NoiseKey, sample
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
        return self.losses_of(self.encoder, floats(batch["image"]), batch["tokens"], training=training)


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
        images, condition = floats(batch["image"]), condition_of(self.encoder, batch)
        return self.losses_of(self.decoder, images, condition, training=training)


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
        loops: Whether the decoder takes several consecutive steps.
    """

    def __init__(
        self,
        decoder: Decoder,
        encoder: Encoder | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        loops: bool = False,
    ) -> None:
        self.decoder = decoder
        self.encoder = encoder if uses_encoder(decoder) else None
        self.options = dict(options or {})
        parts = [part for part in (decoder, self.encoder) if part is not None]
        self.program = Compiled(self._reconstruct, parts, decoder if loops else None)

    def _reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        latent = batch["latent"] if "latent" in batch else self.decoder.encode(floats(batch["image"]))
        condition = condition_of(self.encoder, batch)
        images = ops.cast(self.decoder.decode(latent, condition, batch.get("noise", {}), **self.options), "float32")
        finite = ops.all(ops.isfinite(ops.reshape(images, (ops.shape(images)[0], -1))), axis=1)  # (B,)
        return {"latent": latent, "image": ops.clip(images, -1.0, 1.0), "finite": finite}

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

        Raises:
            RunError: the decoded images are not finite.
        """
        return self._run({"image": images}, prompts, [(seed, copy) for copy in range(len(images))], batch_size)

    def decode(
        self, latents: np.ndarray, prompts: Sequence[Any], keys: Sequence[NoiseKey], *, batch_size: int = 32
    ) -> np.ndarray:
        """Decodes latents (N, *latent_space.shape) to images, uint8 (N, H, W, C).

        Args:
            prompts, batch_size: As in `reconstruct`.
            keys: The N keys of the decoder's noise: see `kgen.random.sample`.

        Raises:
            RunError: the decoded images are not finite.
        """
        return self._run({"latent": latents}, prompts, keys, batch_size)[1]

    def _run(
        self, batch: Batch, prompts: Sequence[Any], keys: Sequence[NoiseKey], batch_size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        noise = sample(noise_spec(self.decoder, self.options), keys)
        batch |= {"noise": noise} if noise else {}
        batch |= {} if self.encoder is None else {"tokens": self.encoder.tokenize(list(prompts))}
        made = self.program.run(batch, len(prompts), batch_size)
        if not made["finite"].all():
            raise RunError(
                f"{type(self.decoder).__name__} decoded images that are not finite (NaN or infinity): change its "
                "options, or train it again, with a lower learning_rate or a clip_norm"
            )
        return made["latent"], to_uint8(made["image"])
