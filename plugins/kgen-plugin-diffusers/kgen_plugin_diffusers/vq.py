"""A published autoencoder with tokens as latents, as a decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import keras
from keras import ops
from kgen_plugin_codecs.discriminator import Discriminator
from kgen_plugin_codecs.perceptual import Perceptual
from kgen_plugin_codecs.reconstruction import Name
from pydantic import Field, PositiveInt

from kgen import Space
from kgen.pretrained import Section
from kgen_plugin_diffusers.autoencoder import PretrainedAutoencoder
from kgen_plugin_diffusers.layers import Shape, Tensor, conv1x1
from kgen_plugin_diffusers.networks import DecoderNetwork, EncoderNetwork, Network


@dataclass(frozen=True)
class Architecture:
    """The configuration of a model.

    Args:
        network: The options of both networks.
        codes: Number of codes.
        dim: Dimension of a code.
    """

    network: Network
    codes: int
    dim: int

    @classmethod
    def read(cls, config: Section) -> Architecture:
        """Reads a configuration. Missing keys have the defaults of diffusers.

        Raises:
            ConfigError: a key is unknown, or its value is wrong or stands for something that kgen does not have.
        """
        network = Network.read(config, latent_channels=3)
        codes = config.whole("num_vq_embeddings", 256)
        given = config.value("vq_embed_dim", None) is not None
        dim = config.whole("vq_embed_dim") if given else network.latent_channels
        config.one_of("norm_type", {"group": None}, "group")
        config.ignore("scaling_factor")  # it is for generators of vectors
        config.ignore("lookup_from_codebook")  # whether the generator of the pipeline makes tokens or vectors
        config.finish()
        return cls(network, codes, dim)

    def build(self, policy: Any) -> Autoencoder:
        """Makes the layers of the model."""
        return Autoencoder(self, dtype=policy, name="network")


class Codebook(keras.layers.Layer):
    """The codes, among which each vector is replaced by the nearest one (van den Oord et al. 2017, equation 1).

    Args:
        codes: Number of codes.
        dim: Dimension of a code.
    """

    def __init__(self, codes: int, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.codes, self.dim = codes, dim

    def build(self, z_shape: Shape) -> None:
        self.embedding = keras.layers.Embedding(self.codes, self.dim, dtype="float32", name="embedding")
        self.embedding.build()

    def call(self, z: Tensor) -> Tensor:
        """The codes that are nearest to vectors: (B, h, w, dim) -> (B, h, w) int32."""
        table = ops.convert_to_tensor(self.embedding.embeddings)  # (codes, dim)
        likeness = ops.matmul(z, ops.transpose(table))  # (B, h, w, codes)
        distance = ops.sum(ops.square(table), axis=1) - 2.0 * likeness  # without |z|^2, which all codes share
        return ops.cast(ops.argmin(distance, axis=-1), "int32")

    def lookup(self, codes: Tensor) -> Tensor:
        """(B, h, w) int32 -> (B, h, w, dim) float32."""
        return self.embedding(codes)


class Autoencoder(keras.layers.Layer):
    """The layers of `VQModel`.

    Args:
        model: The configuration.
    """

    def __init__(self, model: Architecture, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy, self.channels, self.dim = self.dtype_policy, model.network.latent_channels, model.dim
        self.encoder = EncoderNetwork(model.network, self.channels, dtype=policy, name="encoder")
        self.quant_conv = conv1x1(self.dim, policy, "quant_conv")
        self.codebook = Codebook(model.codes, self.dim, dtype="float32", name="codebook")
        self.post_quant_conv = conv1x1(self.channels, policy, "post_quant_conv")
        self.decoder = DecoderNetwork(model.network, dtype=policy, name="decoder")

    def build(self, x_shape: Shape) -> None:
        channels, vectors = (None, None, None, self.channels), (None, None, None, self.dim)
        self.encoder.build(x_shape)
        self.quant_conv.build(channels)
        self.codebook.build(vectors)
        self.post_quant_conv.build(vectors)
        self.decoder.build(channels)

    def encode(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> vectors (B, h, w, dim) float32, which are not quantized."""
        return ops.cast(self.quant_conv(self.encoder(x)), "float32")

    def decode(self, vectors: Tensor) -> Tensor:
        """(B, h, w, dim) -> (B, H, W, C) float32."""
        return ops.cast(self.decoder(self.post_quant_conv(vectors)), "float32")


class VQModel(PretrainedAutoencoder):
    """A published autoencoder with a codebook (van den Oord et al. 2017), in a folder that diffusers has written.

    It needs no training. Its architecture and its weights are those of the folder. With `fit`, the training continues
    from these weights.

    Args:
        pretrained: The folder of a `VQModel`, or of a pipeline with one.
        variant: The variant of the weights, such as "fp16"; None: the files without a variant.
        reconstruction: Distance of pixels in the training: "l1", "l2" or "logistic"; see `codecs/vq-autoencoder`.
        perceptual: Options of the perceptual loss. None means no perceptual loss.
        discriminator: Options of the adversarial loss. None means no adversarial loss.
        commitment: Weight of the squared distance of vectors from their codes.

    Raises:
        ConfigError: in `latent_space` and ``build``, the folder has no such model.
        SpaceError: in `latent_space`, the factor does not divide the images, or they have another number of channels.
    """

    model_class = "VQModel"
    parts = ("vqvae", "vae", "movq")
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
        commitment: Annotated[float, Field(ge=0)] = 0.25,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_space, **kwargs)
        self.pretrained = pretrained
        self.variant = variant
        self._set_losses(reconstruction, perceptual, discriminator)
        self.commitment = commitment

    @property
    def latent_space(self) -> Space:
        return Space("tokens", self.grid, vocabulary=self.architecture.codes)

    def compute_losses(self, images: Tensor, condition: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
        """Returns the reconstruction loss plus the two distances of vectors and codes (equation 3 of the paper).

        Returns:
            (B,) each: "loss", "codebook" and the weighted "commitment", and the terms of `ReconstructionLoss`.
        """
        images = ops.cast(images, "float32")
        vectors = self.network.encode(images)
        codes = self.network.codebook.lookup(self.network.codebook(vectors))
        made = self.network.decode(vectors + ops.stop_gradient(codes - vectors))
        terms = self.reconstruction_loss(images, made, training=training)
        codebook = ops.mean(ops.square(codes - ops.stop_gradient(vectors)), axis=(1, 2, 3))
        commitment = self.commitment * ops.mean(ops.square(vectors - ops.stop_gradient(codes)), axis=(1, 2, 3))
        loss = terms.pop("reconstruction_loss") + codebook + commitment
        return {"loss": loss, "codebook": codebook, "commitment": commitment, **terms}

    def encode(self, images: Tensor) -> Tensor:
        return self.network.codebook(self.network.encode(images))

    def decode(
        self,
        latent: Tensor,
        condition: dict[str, Tensor],
        noise: dict[str, Tensor],
        *,
        tile: PositiveInt | None = None,
        sliced: bool = False,
    ) -> Tensor:
        """Decodes tokens to images in [-1, 1], which the pipeline clips.

        Args:
            tile: Height and width, in pixels, of the overlapping tiles in which large images are decoded, to save
                memory: see `decode_in_tiles`. None means that images are decoded as a whole.
            sliced: Whether the images of a batch are decoded one after the other, to save memory.
        """
        return self._decoded(self.network.codebook.lookup(ops.cast(latent, "int32")), tile, sliced)
