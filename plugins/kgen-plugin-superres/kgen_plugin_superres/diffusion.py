"""Super-resolution by diffusion, which samples one of the possible large images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, LossAxis, NoiseSpec, SeedGenerator, Space, SpaceError, Steps, record_levels, show_step
from kgen.nn import UNetLayer, check_levels, depth_to_space, sinusoidal, space_to_depth, threshold_dynamically
from kgen.random import per_example
from kgen_plugin_superres import process
from kgen_plugin_superres.resize import agree, enlarge
from kgen_plugin_superres.small_image import Factor, SmallImage

Tensor = Any
Condition = dict[str, Tensor]

LEVEL_DIM = 32
"""Dimension of the embedding of the small image's noise level."""

Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A U-Net on patches (as in Imagen's efficient U-Net, most of it works at a low resolution).

    Args:
        patch: Height and width of the square of pixels that becomes one position of the first level.
        width: Number of channels of the first level.
        multipliers: Number of channels of each level as a multiple of `width`. Each level has half the height and width
            of the level before.
        blocks: Number of residual blocks per level on the way down. There is one more on the way up.
        attention: Levels with self-attention and attention to the text, counted from 0. The middle always has both.
        head_dim: Number of channels per attention head. It must divide the channels of the levels with attention, and
            of the last level.
    """

    patch: PositiveInt = 2
    width: Annotated[int, Field(ge=4, multiple_of=2)] = 64
    multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 2)
    blocks: PositiveInt = 2
    attention: tuple[Annotated[int, Field(ge=0)], ...] = ()
    head_dim: PositiveInt = 32

    def __post_init__(self) -> None:
        check_levels(self.width, self.multipliers, self.attention, self.head_dim)

    @property
    def stride(self) -> int:
        """Number that must divide the image's height and width."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))


class DiffusionUpscaler(SmallImage):
    """A diffusion model of large images, given the small one and the text (SR3, Saharia et al. 2021; Imagen, 2022).

    The network gets the noisy large image and the enlarged small image, and predicts the difference between the clean
    image and the latter. It does not predict the noise, because noise in a patch may have more dimensions than the
    network has channels (Li and He 2025).

    In training, the small image gets noise of a random level, which is also an input of the network (noise conditioning
    augmentation, Ho et al. 2022). This makes the decoder robust to errors of a generator.

    Args:
        factor: Factor of height and width.
        network: Size of the U-Net.
        augmentation: Largest noise level of the small image in training:
            ``sqrt(1 - augmentation^2) * small + augmentation * noise``.

    Raises:
        SpaceError: See `SmallImage`; or the levels of the network do not divide the images.
    """

    loss_axis = LossAxis("t", 0.0, 1.0)

    def __init__(
        self,
        image_space: Space,
        condition_space: ConditionSpace,
        *,
        factor: Factor = 4,
        network: Network = Network(),
        augmentation: Share = 0.4,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_space, factor=factor, **kwargs)
        height, width, channels = image_space.shape
        if height % network.stride or width % network.stride:
            raise SpaceError(
                f"a U-Net with {len(network.multipliers)} levels on patches of {network.patch} needs a height and a "
                f"width divisible by {network.stride}, but the images are {height}x{width}: change the dataset's "
                "size, or network.patch and multipliers"
            )
        self.condition_space = condition_space
        self.network = network
        self.augmentation = augmentation
        self.seed_generator = SeedGenerator()
        self.unet = UNetLayer(
            out_channels=channels * network.patch**2,
            width=network.width,
            multipliers=network.multipliers,
            blocks=network.blocks,
            attention=network.attention,
            head_dim=network.head_dim,
            dtype=self.dtype_policy,
            name="unet",
        )

    def build(self, input_shape: None = None) -> None:
        (height, width, channels), patch, text = self.image_space.shape, self.network.patch, self.condition_space
        self.unet.build(
            (None, height // patch, width // patch, 2 * channels * patch**2),
            {"sequence": (None, text.length, text.dim), "pooled": (None, text.pooled_dim + LEVEL_DIM)},
        )

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, images: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the weighted squared error of the predicted image at one time t in [0, 1] per example."""
        images = ops.cast(images, "float32")
        count, small = ops.shape(images)[0], self.encode(images)
        t = per_example(keras.random.uniform, (count, 1, 1, 1), self.seed_generator)
        eps = per_example(keras.random.normal, ops.shape(images), self.seed_generator)
        alpha, sigma = process.levels(t)
        noisy = alpha * images + sigma * eps
        level = self.augmentation * per_example(keras.random.uniform, (count,), self.seed_generator)
        noise = per_example(keras.random.normal, ops.shape(small), self.seed_generator)
        given = self._given(small, noise, level)
        found = self._image(noisy, given, ops.reshape(t, (-1,)), level, condition, training)
        loss = ops.mean(process.weight(t) * ops.square(found - images), axis=(1, 2, 3))
        record_levels(ops.reshape(t, (-1,)), loss)
        return {"loss": loss}

    def _given(self, small: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Returns the small image with noise of `level` (B,), enlarged: (B, H, W, C)."""
        level = ops.reshape(level, (-1, 1, 1, 1))
        return enlarge(ops.sqrt(1.0 - level**2) * small + level * noise, self.factor)

    def _image(
        self, x: Tensor, given: Tensor, t: Tensor, level: Tensor, condition: Condition, training: bool = False
    ) -> Tensor:
        """Predicts the clean image: (B, H, W, C) twice, (B,) twice, condition -> (B, H, W, C)."""
        patch = self.network.patch
        both = space_to_depth(ops.concatenate([x, given], axis=-1), patch)  # (B, H/p, W/p, 2 p^2 C)
        pooled = ops.cast(condition["pooled"], "float32")
        with_level = {**condition, "pooled": ops.concatenate([pooled, sinusoidal(1000.0 * level, LEVEL_DIM)], axis=-1)}
        return given + depth_to_space(self.unet(both, 1000.0 * t, with_level, training=training), patch)

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(self, **options: Any) -> dict[str, NoiseSpec]:
        return {
            "start": NoiseSpec("normal", self.image_space.shape),
            "augmentation": NoiseSpec("normal", self.latent_space.shape),
        }

    def decode(
        self,
        latent: Tensor,
        condition: Condition,
        noise: dict[str, Tensor],
        *,
        steps: Steps = 16,
        augmentation: Share = 0.0,
        consistency: Annotated[float, Field(ge=0, le=1)] = 1.0,
        dynamic_threshold: Annotated[float, Field(gt=0, le=1)] | None = None,
    ) -> Tensor:
        """Enlarges small images.

        Args:
            steps: Number of sampling steps.
            augmentation: Noise level of the small image. Use some, such as 0.1, if a generator made it, but no more
                than in training.
            consistency: Share, 0 to 1, of the correction that makes each step's image agree with the small one. Use 1
                if the small image is right, and less if it has errors to repair. See `resize.agree`.
            dynamic_threshold: Quantile for `kgen.nn.threshold_dynamically`, such as 0.995. None clips to [-1, 1].
        """
        rows = ops.zeros_like(ops.reshape(latent, (ops.shape(latent)[0], -1))[:, 0])  # (B,)
        level = rows + augmentation
        small = ops.cast(latent, "float32")
        given = self._given(small, noise["augmentation"], level)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            image = self._image(x, given, rows + t, level, condition)
            image = agree(image, small, consistency)
            if dynamic_threshold is None:
                image = ops.clip(image, -1.0, 1.0)
            else:
                image = threshold_dynamically(image, dynamic_threshold)
            show_step(image)
            return image

        return process.sample(denoise, noise["start"], steps)
