"""A published autoencoder with continuous latents, as a decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops
from kgen_plugin_codecs.discriminator import Discriminator
from kgen_plugin_codecs.perceptual import Perceptual
from kgen_plugin_codecs.posterior import Posterior, kl_losses
from kgen_plugin_codecs.reconstruction import Name
from pydantic import Field, PositiveInt

from kgen import SeedGenerator, Space
from kgen.pretrained import Section
from kgen_plugin_diffusers.autoencoder import PretrainedAutoencoder
from kgen_plugin_diffusers.layers import Shape, Tensor, conv1x1
from kgen_plugin_diffusers.networks import DecoderNetwork, EncoderNetwork, Network


@dataclass(frozen=True)
class Architecture:
    """The configuration of a model.

    Args:
        network: The options of both networks.
        quant_conv: Whether a 1x1 convolution follows the encoder network.
        post_quant_conv: Whether a 1x1 convolution precedes the decoder network.
        shift: The mean of the latents, a number per channel.
        scale: What the centered latents are multiplied with, a number per channel.
    """

    network: Network
    quant_conv: bool
    post_quant_conv: bool
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def read(cls, config: Section) -> Architecture:
        """Reads a configuration. Missing keys have the defaults of diffusers.

        Raises:
            ConfigError: a key is unknown, or its value is wrong or stands for something that kgen does not have.
        """
        network = Network.read(config, latent_channels=4)
        shift, scale = _scaling(config, network.latent_channels)
        flags = [
            config.one_of(key, {True: True, False: False}, True) for key in ("use_quant_conv", "use_post_quant_conv")
        ]
        config.finish()
        return cls(network, *flags, shift, scale)

    def build(self, policy: Any) -> Autoencoder:
        """Makes the layers of the model."""
        return Autoencoder(self, dtype=policy, name="network")


def _scaling(config: Section, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The shift and the scale per channel: ``(z - shift) * scale`` are the latents of diffusers' pipelines."""
    factor = config.number("scaling_factor", 0.18215)
    shift = config.real("shift_factor", 0.0) if config.value("shift_factor", None) is not None else 0.0
    given = [config.value(key, None) for key in ("latents_mean", "latents_std")]
    if given == [None, None]:
        return (shift,) * channels, (factor,) * channels
    mean, deviation = config.reals("latents_mean", channels), config.reals("latents_std", channels)
    if min(deviation) <= 0:
        config.refuse("latents_std", f"must be positive numbers, not {deviation}")
    if shift:
        config.refuse("shift_factor", "cannot be given together with latents_mean, which is a shift, too")
    return mean, tuple(factor / number for number in deviation)


class Autoencoder(keras.layers.Layer):
    """The layers of `AutoencoderKL`.

    Args:
        model: The configuration.
    """

    def __init__(self, model: Architecture, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy, network = self.dtype_policy, model.network
        self.latents, self.moments = network.latent_channels, 2 * network.latent_channels
        self.encoder = EncoderNetwork(network, self.moments, dtype=policy, name="encoder")
        self.quant_conv = conv1x1(self.moments, policy, "quant_conv") if model.quant_conv else None
        self.post_quant_conv = conv1x1(self.latents, policy, "post_quant_conv") if model.post_quant_conv else None
        self.decoder = DecoderNetwork(network, dtype=policy, name="decoder")

    def build(self, x_shape: Shape) -> None:
        latents = (None, None, None, self.latents)
        self.encoder.build(x_shape)
        if self.quant_conv is not None:
            self.quant_conv.build((None, None, None, self.moments))
        if self.post_quant_conv is not None:
            self.post_quant_conv.build(latents)
        self.decoder.build(latents)

    def encode(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, h, w, 2 * latent_channels) float32: means and log variances."""
        x = self.encoder(x)
        return ops.cast(x if self.quant_conv is None else self.quant_conv(x), "float32")

    def decode(self, z: Tensor) -> Tensor:
        """(B, h, w, latent_channels) -> (B, H, W, C) float32."""
        z = z if self.post_quant_conv is None else self.post_quant_conv(z)
        return ops.cast(self.decoder(z), "float32")


class AutoencoderKL(PretrainedAutoencoder):
    """A published autoencoder with a KL penalty (Rombach et al. 2022), in a folder that diffusers has written.

    It needs no training. Its architecture and its weights are those of the folder. Latents are the means of the
    posterior. They are shifted and scaled as the configuration says, and as diffusers' pipelines do, so that generators
    of published pipelines fit. With `fit`, the training continues from the weights of the folder; the shift and the
    scale stay.

    Args:
        pretrained: The folder of an `AutoencoderKL`, or of a pipeline with one.
        variant: The variant of the weights, such as "fp16"; None: the files without a variant.
        reconstruction: Distance of pixels in the training: "l1", "l2" or "logistic"; see `codecs/kl-autoencoder`.
        perceptual: Options of the perceptual loss. None means no perceptual loss.
        discriminator: Options of the adversarial loss. None means no adversarial loss.
        kl_weight: Weight of the KL divergence from N(0, I), in nats per dimension of the latent.

    Raises:
        ConfigError: in `latent_space` and ``build``, the folder has no such model.
        SpaceError: in `latent_space`, the factor does not divide the images, or they have another number of channels.
    """

    model_class = "AutoencoderKL"
    parts = ("vae",)
    architecture_class = Architecture

    def __init__(
        self,
        image_space: Space,
        *,
        pretrained: Annotated[str, Field(min_length=1)],
        variant: Annotated[str, Field(min_length=1)] | None = None,
        reconstruction: Name = "l1",
        perceptual: Perceptual | None = None,
        discriminator: Discriminator | None = None,
        kl_weight: Annotated[float, Field(ge=0)] = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_space, **kwargs)
        self.pretrained = pretrained
        self.variant = variant
        self._set_losses(reconstruction, perceptual, discriminator)
        self.kl_weight = kl_weight
        self.seed_generator = SeedGenerator()

    @property
    def latent_space(self) -> Space:
        return Space("continuous", (*self.grid, self.architecture.network.latent_channels), bounded=False)

    def compute_losses(self, images: Tensor, condition: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
        """Returns the reconstruction loss of one sample of the posterior plus the weighted KL divergence."""
        images = ops.cast(images, "float32")
        posterior = Posterior.of(self.network.encode(images))
        made = self.network.decode(posterior.sample(self.seed_generator))
        return kl_losses(posterior, self.reconstruction_loss(images, made, training=training), self.kl_weight)

    def encode(self, images: Tensor) -> Tensor:
        mean = Posterior.of(self.network.encode(images)).mean  # (B, h, w, latent_channels)
        shift, scale = self._scaling()
        return ops.multiply(ops.subtract(mean, shift), scale)

    def decode(
        self,
        latent: Tensor,
        condition: dict[str, Tensor],
        noise: dict[str, Tensor],
        *,
        tile: PositiveInt | None = None,
        sliced: bool = False,
    ) -> Tensor:
        """Decodes latents to images in [-1, 1], which the pipeline clips.

        Args:
            tile: Height and width, in pixels, of the overlapping tiles in which large images are decoded, to save
                memory: see `decode_in_tiles`. None means that images are decoded as a whole.
            sliced: Whether the images of a batch are decoded one after the other, to save memory.
        """
        shift, scale = self._scaling()
        return self._decoded(ops.add(ops.divide(latent, scale), shift), tile, sliced)

    def _scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """The shift and the scale of the latents, (latent_channels,) each."""
        return np.array(self.architecture.shift, "float32"), np.array(self.architecture.scale, "float32")
