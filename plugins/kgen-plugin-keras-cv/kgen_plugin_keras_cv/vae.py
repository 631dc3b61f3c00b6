"""The autoencoder of Stable Diffusion, as a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import keras
from keras import ops
from kgen_plugin_codecs.discriminator import Discriminator
from kgen_plugin_codecs.perceptual import Perceptual
from kgen_plugin_codecs.posterior import Posterior, kl_losses
from kgen_plugin_codecs.reconstruction import Name
from kgen_plugin_codecs.reconstruction_loss import ReconstructionLoss
from kgen_plugin_diffusers.folder import Folder
from kgen_plugin_diffusers.kl import Architecture
from kgen_plugin_diffusers.names import current_name
from pydantic import Field

from kgen import Decoder, SeedGenerator, Space, SpaceError
from kgen.pretrained import Section, Tensors
from kgen_plugin_keras_cv.files import check_options, is_file, load_file
from kgen_plugin_keras_cv.library import new_model
from kgen_plugin_keras_cv.names import decoder_modules, image_encoder_modules, named

Tensor = Any

FACTOR, CHANNELS = 8, 4
"""Height and width of an image over those of its latent, and the number of channels of latents."""

SCALE = 0.18215
"""What keras-cv multiplies the means of the latents with (Rombach et al. 2022, appendix G)."""


class VAE(Decoder):
    """The autoencoder of Stable Diffusion 1 and 2, with keras-cv's models (Rombach et al. 2022).

    With `pretrained`, it needs no training. Latents are the means of the posterior times 0.18215, as in keras-cv.

    Args:
        pretrained: Trained weights: a ``.h5`` file of keras-cv's `Decoder`, or a folder of an `AutoencoderKL` or of a
            pipeline with one, which diffusers has written; None: random weights, which must be trained.
        image_encoder: A ``.h5`` file of keras-cv's `ImageEncoder`, which belongs to that of the `Decoder`.
        variant: The variant of the weights in the folder, such as "fp16"; None: the files without a variant.
        reconstruction: Distance of pixels in the training: "l1", "l2" or "logistic"; see `codecs/kl-autoencoder`.
        perceptual: Options of the perceptual loss. None means no perceptual loss.
        discriminator: Options of the adversarial loss. None means no adversarial loss.
        kl_weight: Weight of the KL divergence from N(0, I), in nats per dimension of the latent.

    Raises:
        ValueError: `pretrained` is a file, but `image_encoder` is missing, or the other way round.
        SpaceError: the images have no 3 channels, or a side that 8 does not divide.
        PluginError: in ``build``, keras-cv or TensorFlow is missing.
        ConfigError: in ``build``, the files have another model.
    """

    def __init__(
        self,
        image_space: Space,
        *,
        pretrained: Annotated[str, Field(min_length=1)] | None = None,
        image_encoder: Annotated[str, Field(min_length=1)] | None = None,
        variant: Annotated[str, Field(min_length=1)] | None = None,
        reconstruction: Name = "l1",
        perceptual: Perceptual | None = None,
        discriminator: Discriminator | None = None,
        kl_weight: Annotated[float, Field(ge=0)] = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_space, **kwargs)
        check_options(pretrained, variant)
        if (pretrained is not None and is_file(pretrained)) != (image_encoder is not None):
            raise ValueError(
                "keras-cv has a file for each half of the autoencoder: give that of the Decoder as 'pretrained' and "
                "that of the ImageEncoder as 'image_encoder', or a folder as 'pretrained' alone"
            )
        self.pretrained = pretrained
        self.image_encoder = image_encoder
        self.variant = variant
        self.reconstruction = reconstruction
        self.perceptual = perceptual
        self.discriminator = discriminator
        self.kl_weight = kl_weight
        self.check_space(image_space)
        self._reads_files = pretrained is not None
        self.encoding: list[Any] = []
        self.decoding: list[Any] = []
        self.reconstruction_loss = ReconstructionLoss(
            reconstruction, perceptual, discriminator, dtype="float32", name="reconstruction_loss"
        )
        self.seed_generator = SeedGenerator()

    @classmethod
    def is_pretrained(cls, options: Mapping[str, Any]) -> bool:
        return options.get("pretrained") is not None

    @property
    def latent_space(self) -> Space:
        height, width, _ = self.image_space.shape
        return Space("continuous", (height // FACTOR, width // FACTOR, CHANNELS), bounded=False)

    def check_space(self, image_space: Space) -> None:
        """Raises SpaceError if the images have no 3 channels, or a side that 8 does not divide."""
        shape = image_space.shape
        if image_space.kind != "continuous" or len(shape) != 3 or shape[-1] != 3:
            raise SpaceError(f"decoder 'keras-cv/vae' needs images of shape (height, width, 3), not {image_space}")
        if shape[0] % FACTOR or shape[1] % FACTOR:
            raise SpaceError(
                f"decoder 'keras-cv/vae' needs a height and a width divisible by {FACTOR}, but the images are "
                f"{shape[0]}x{shape[1]}: change the size of the dataset"
            )

    # ---- weights --------------------------------------------------------------------------------------------------

    def build(self, input_shape: None = None) -> None:
        images = (None, *self.image_space.shape)
        folder = self._folder()
        groups = _groups(folder.config()) if folder else 0  # first, because the models take seconds
        decoder = new_model("Decoder", self.dtype_policy, *self.image_space.shape[:2])
        if folder:
            _check_groups(folder.config(), groups, decoder)
        encoder = new_model("ImageEncoder", self.dtype_policy)
        if folder:
            _fill(folder, encoder, decoder)
        elif self._reads_files:
            load_file(decoder, self.pretrained)
            load_file(encoder, self.image_encoder)
        self.encoding = encoder.layers[:-1]  # the last one scales the means, and leaves out the log variances
        self.decoding = decoder.layers
        self.reconstruction_loss.build(images, images)

    def _folder(self) -> Folder | None:
        """The folder from which `build` reads the weights; None: it reads files of keras-cv, or nothing."""
        if not self._reads_files or self.pretrained is None or self.image_encoder is not None:
            return None
        return Folder(self.pretrained, "AutoencoderKL", ("vae",), self.variant)

    @property
    def inference_weights(self) -> list[Any]:
        return [weight for layer in (*self.encoding, *self.decoding) for weight in layer.weights]

    def load_assets(self, path: str | Path) -> None:
        """Skips the files: the weights are loaded, too."""
        self._reads_files = False

    # ---- images and latents ---------------------------------------------------------------------------------------

    def _posterior(self, images: Tensor) -> Posterior:
        """(B, H, W, 3) -> a distribution of (B, H/8, W/8, 4)."""
        return Posterior.of(ops.cast(_chained(self.encoding, images), "float32"))

    def _image(self, latent: Tensor) -> Tensor:
        """(B, H/8, W/8, 4) -> (B, H, W, 3) float32."""
        return ops.cast(_chained(self.decoding, latent), "float32")

    def compute_losses(self, images: Tensor, condition: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
        """Returns the reconstruction loss of one sample of the posterior plus the weighted KL divergence."""
        images = ops.cast(images, "float32")
        posterior = self._posterior(images)
        made = self._image(posterior.sample(self.seed_generator) * SCALE)
        return kl_losses(posterior, self.reconstruction_loss(images, made, training=training), self.kl_weight)

    def encode(self, images: Tensor) -> Tensor:
        return self._posterior(images).mean * SCALE

    def decode(self, latent: Tensor, condition: dict[str, Tensor], noise: dict[str, Tensor]) -> Tensor:  # type: ignore[override]  # it takes no options
        return self._image(latent)


def _chained(layers: list[Any], x: Tensor) -> Tensor:
    """The output of layers one after the other. (A model of keras-cv would take images of one size alone.)"""
    for layer in layers:
        x = layer(x)
    return x


def _groups(config: Section) -> int:
    """The groups of a configuration's normalizations. Raises ConfigError if it has other latents."""
    found = Architecture.read(config)
    for key, there, here in (("scaling_factor", found.scale, SCALE), ("shift_factor", found.shift, 0.0)):
        if there != (here,) * CHANNELS:
            _refuse(config, key, here)
    return found.network.groups


def _check_groups(config: Section, groups: int, decoder: keras.Model) -> None:
    """Raises ConfigError if the normalizations have other groups, which the shapes of the tensors do not tell."""
    here = next(layer.groups for layer in decoder.layers if isinstance(layer, keras.layers.GroupNormalization))
    if groups != here:
        _refuse(config, "norm_num_groups", here)


def _refuse(config: Section, key: str, here: float) -> None:
    config.refuse(key, f"must be {here}, as in keras-cv: use the decoder 'diffusers/autoencoder-kl'")


def _fill(folder: Folder, encoder: keras.Model, decoder: keras.Model) -> None:
    """Assigns the weights of the folder. Raises ConfigError if they have another model."""
    halves = [named(encoder.layers, image_encoder_modules()), named(decoder.layers, decoder_modules())]
    weights, sources = ({**one, **other} for one, other in zip(*halves, strict=True))
    with Tensors(folder.files(), current_name) as tensors:
        tensors.fill(weights, sources)
