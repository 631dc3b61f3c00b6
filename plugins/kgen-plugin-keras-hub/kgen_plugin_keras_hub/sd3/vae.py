"""The autoencoder of Stable Diffusion 3, as a decoder."""

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
from pydantic import Field

from kgen import Decoder, SeedGenerator, Space, SpaceError, read_json
from kgen_plugin_keras_hub.sd3.architecture import VAESizes, write_sizes
from kgen_plugin_keras_hub.sd3.library import hub_class
from kgen_plugin_keras_hub.sd3.preset import Published, load_part, open_preset

Tensor = Any

FILE = "vae.json"
"""The file of the sizes, in a saved pipeline."""


class VAE(Decoder):
    """The autoencoder of Stable Diffusion 3 and 3.5, with KerasHub's layers (Esser et al. 2024, section 5.2.1).

    With `preset`, it needs no training. Latents are the means of the posterior, shifted and scaled as in KerasHub.

    Args:
        preset: Trained weights: a folder in KerasHub's format, "hf://USER/NAME", or a preset of KerasHub, such as
            "stable_diffusion_3_medium"; None: random weights, which must be trained.
        sizes: The sizes of an autoencoder with random weights; None: those of the preset, or of Stable Diffusion 3.
        reconstruction: Distance of pixels in the training: "l1", "l2" or "logistic"; see `codecs/kl-autoencoder`.
        perceptual: Options of the perceptual loss. None means no perceptual loss.
        discriminator: Options of the adversarial loss. None means no adversarial loss.
        kl_weight: Weight of the KL divergence from N(0, I), in nats per dimension of the latent.

    Raises:
        ValueError: both `preset` and `sizes` are given.
        SpaceError: in `latent_space`, the images have no 3 channels, or a side that the downsampling factor does not
            divide.
        ConfigError: in `latent_space` and ``build``, the preset is damaged, or is of another model.
        PluginError: in ``build``, KerasHub has another version.
    """

    def __init__(
        self,
        image_space: Space,
        *,
        preset: Annotated[str, Field(min_length=1)] | None = None,
        sizes: VAESizes | None = None,
        reconstruction: Name = "l1",
        perceptual: Perceptual | None = None,
        discriminator: Discriminator | None = None,
        kl_weight: Annotated[float, Field(ge=0)] = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_space, **kwargs)
        if preset is not None and sizes is not None:
            raise ValueError("the preset has its own sizes: leave 'sizes' out")
        self.preset = preset
        self.sizes = sizes
        self.reconstruction = reconstruction
        self.perceptual = perceptual
        self.discriminator = discriminator
        self.kl_weight = kl_weight
        self._folder: Path | None = None
        self._sizes = None if preset is not None else sizes or VAESizes()
        self.reconstruction_loss = ReconstructionLoss(
            reconstruction, perceptual, discriminator, dtype="float32", name="reconstruction_loss"
        )
        self.seed_generator = SeedGenerator()

    @classmethod
    def is_pretrained(cls, options: Mapping[str, Any]) -> bool:
        return options.get("preset") is not None

    def _read(self) -> VAESizes:
        """The sizes, of which the preset is read when they are first needed. Raises ConfigError if it is wrong."""
        if self._sizes is None:
            assert self.preset is not None
            self._folder = open_preset(self.preset)
            self._sizes = Published.read(self._folder).vae
        return self._sizes

    @property
    def latent_space(self) -> Space:
        sizes = self._read()
        self.check_space(self.image_space)
        height, width, _ = self.image_space.shape
        return Space("continuous", (height // sizes.factor, width // sizes.factor, sizes.channels), bounded=False)

    def check_space(self, image_space: Space) -> None:
        """Raises SpaceError if the images have no 3 channels, or a side that the factor does not divide."""
        shape, factor = image_space.shape, self._read().factor
        if image_space.kind != "continuous" or len(shape) != 3 or shape[-1] != 3:
            raise SpaceError(f"decoder 'keras-hub/sd3-vae' needs images of shape (height, width, 3), not {image_space}")
        if shape[0] % factor or shape[1] % factor:
            raise SpaceError(
                f"decoder 'keras-hub/sd3-vae' needs a height and a width divisible by {factor}, but the images are "
                f"{shape[0]}x{shape[1]}: change the size of the dataset"
            )

    # ---- weights --------------------------------------------------------------------------------------------------

    def build(self, input_shape: None = None) -> None:
        sizes, images = self._read(), keras.Input((None, None, 3))
        given = {"data_format": "channels_last", "dtype": self.dtype_policy}
        self.encoding = hub_class("VAEEncoder")(
            sizes.encoder_filters, sizes.encoder_blocks, 2 * sizes.channels, name="encoder", **given
        )
        self.decoding = hub_class("VAEDecoder")(sizes.decoder_filters, sizes.decoder_blocks, 3, name="decoder", **given)
        latents = keras.Input((None, None, sizes.channels))
        model = keras.Model([images, latents], [self.encoding(images), self.decoding(latents)])
        if self._folder is not None:
            load_part(model, self._folder)
        shape = (None, *self.image_space.shape)
        self.reconstruction_loss.build(shape, shape)

    @property
    def inference_weights(self) -> list[Any]:
        return [*self.encoding.weights, *self.decoding.weights]

    def save_assets(self, path: str | Path) -> None:
        write_sizes(self._read(), Path(path) / FILE)

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote. Raises RunError if it is damaged."""
        self._sizes = read_json(Path(path) / FILE, VAESizes)
        self._folder = None

    # ---- images and latents ---------------------------------------------------------------------------------------

    def _posterior(self, images: Tensor) -> Posterior:
        """(B, H, W, 3) -> a distribution of (B, h, w, channels)."""
        return Posterior.of(ops.cast(self.encoding(images), "float32"))

    def _image(self, z: Tensor) -> Tensor:
        """(B, h, w, channels) -> (B, H, W, 3) float32."""
        return ops.cast(self.decoding(z), "float32")

    def compute_losses(self, images: Tensor, condition: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
        """Returns the reconstruction loss of one sample of the posterior plus the weighted KL divergence."""
        images = ops.cast(images, "float32")
        posterior = self._posterior(images)
        made = self._image(posterior.sample(self.seed_generator))
        return kl_losses(posterior, self.reconstruction_loss(images, made, training=training), self.kl_weight)

    def encode(self, images: Tensor) -> Tensor:
        sizes = self._read()
        return (self._posterior(images).mean - sizes.shift) * sizes.scale

    def decode(self, latent: Tensor, condition: dict[str, Tensor], noise: dict[str, Tensor]) -> Tensor:  # type: ignore[override]  # it takes no options
        sizes = self._read()
        return self._image(ops.cast(latent, "float32") / sizes.scale + sizes.shift)
