"""Super-resolution by diffusion: one of the large images that the small one may have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, NoiseSpec, SeedGenerator, Space, SpaceError
from kgen.nn import UNetLayer, depth_to_space, sinusoidal, space_to_depth, threshold_dynamically
from kgen_plugin_superres import process
from kgen_plugin_superres.resize import agree, enlarge
from kgen_plugin_superres.small_image import Factor, SmallImage

Tensor = Any
Condition = dict[str, Tensor]

TOLD = 32
"""Numbers that tell the network how noisy the small image is."""

Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A U-Net on squares of pixels (as in Imagen's efficient U-Net, most of it works at a low resolution).

    Args:
        patch: Height and width of the squares of pixels that are one position of the first level.
        width: Channels of the first level.
        multipliers: Channels of every level, times `width`; each level after the first has half the height and width.
        blocks: Residual blocks a level, on the way down; there is one more on the way up.
        attention: The levels, counted from 0, with attention to themselves and the text (the middle always has it).
        head_dim: Channels an attention head; must divide the channels of these levels.
    """

    patch: PositiveInt = 2
    width: Annotated[int, Field(ge=4, multiple_of=2)] = 64
    multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 2)
    blocks: PositiveInt = 2
    attention: tuple[Annotated[int, Field(ge=0)], ...] = ()
    head_dim: PositiveInt = 32

    def __post_init__(self) -> None:
        last = len(self.multipliers) - 1
        if beyond := [level for level in self.attention if level > last]:
            raise ValueError(f"attention at level {beyond[0]}, but the levels of this U-Net are 0 to {last}")
        for level in {*self.attention, last}:
            if (channels := self.width * self.multipliers[level]) % self.head_dim:
                raise ValueError(
                    f"level {level} has {channels} channels, which heads of {self.head_dim} do not divide: "
                    "change head_dim, width or multipliers"
                )

    @property
    def stride(self) -> int:
        """What the image's height and width must be multiples of."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))


class DiffusionUpscaler(SmallImage):
    """A diffusion model of large images, given the small one and the text (SR3, Saharia et al. 2021; Imagen, 2022).

    The network sees the noisy large image beside the small one, enlarged, and says what the latter lacks. It predicts
    images and not their noise, which has more numbers than a square of pixels has channels (Li and He 2025).

    In training, the small image is noisy too, to a random degree that the network is told (noise conditioning
    augmentation, Ho et al. 2022): then it forgives a small image that a generator made the generator's mistakes.

    Args:
        factor: Of height and width.
        network: Size of the U-Net.
        augmentation: Most noise on the small image in training: the noisiest is
            ``sqrt(1 - augmentation^2) * small + augmentation * noise``.

    Raises:
        SpaceError: see `SmallImage`; or the network's levels do not divide the images.
    """

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
                f"a U-Net with {len(network.multipliers)} levels on squares of {network.patch} needs a height and a "
                f"width that {network.stride} divides, but the images are {height}x{width}: change the dataset's "
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
            {"sequence": (None, text.length, text.dim), "pooled": (None, text.pooled_dim + TOLD)},
        )

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, images: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """The squared error of the predicted image, weighted, at one noise level an example: (B,)."""
        images = ops.cast(images, "float32")
        count, small = ops.shape(images)[0], self.encode(images)
        t = keras.random.uniform((count, 1, 1, 1), seed=self.seed_generator)
        eps = keras.random.normal(ops.shape(images), seed=self.seed_generator)
        noisy = process.alpha(t) * images + process.sigma(t) * eps
        level = self.augmentation * keras.random.uniform((count,), seed=self.seed_generator)
        noise = keras.random.normal(ops.shape(small), seed=self.seed_generator)
        given = self._given(small, noise, level)
        found = self._image(noisy, given, ops.reshape(t, (-1,)), level, condition, training)
        return {"loss": ops.mean(process.weight(t) * ops.square(found - images), axis=(1, 2, 3))}

    def _given(self, small: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The small image with noise of a level (B,), enlarged: (B, H, W, C)."""
        level = ops.reshape(level, (-1, 1, 1, 1))
        return enlarge(ops.sqrt(1.0 - level**2) * small + level * noise, self.factor)

    def _image(
        self, x: Tensor, given: Tensor, t: Tensor, level: Tensor, condition: Condition, training: bool = False
    ) -> Tensor:
        """The clean image in x: (B, H, W, C) twice, (B,) twice, condition -> (B, H, W, C)."""
        patch = self.network.patch
        both = space_to_depth(ops.concatenate([x, given], axis=-1), patch)  # (B, H/p, W/p, 2 p^2 C)
        pooled = ops.cast(condition["pooled"], "float32")
        told = {**condition, "pooled": ops.concatenate([pooled, sinusoidal(1000.0 * level, TOLD)], axis=-1)}
        return given + depth_to_space(self.unet(both, 1000.0 * t, told, training=training), patch)

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
        steps: PositiveInt = 16,
        augmentation: Share = 0.0,
        consistency: Annotated[float, Field(ge=0, le=1)] = 1.0,
        dynamic_threshold: Annotated[float, Field(gt=0, le=1)] | None = None,
    ) -> Tensor:
        """Enlarges small images.

        Args:
            steps: Runs of the network.
            augmentation: Noise on the small image: some, such as 0.1, where a generator made it. No more than the
                decoder was trained with.
            consistency: How far each step's image is moved toward one that is the small image, if made small: 1
                for a small image that is right, less for one that should be repaired. See `resize.agree`.
            dynamic_threshold: Quantile, such as 0.995, see `kgen.nn.threshold_dynamically`; None: -1 and 1.
        """
        rows = ops.zeros_like(ops.reshape(latent, (ops.shape(latent)[0], -1))[:, 0])  # (B,)
        level = rows + augmentation
        small = ops.cast(latent, "float32")
        given = self._given(small, noise["augmentation"], level)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            image = self._image(x, given, rows + t, level, condition)
            image = agree(image, small, consistency)
            if dynamic_threshold is not None:
                return threshold_dynamically(image, dynamic_threshold)
            return ops.clip(image, -1.0, 1.0)

        return process.sample(denoise, noise["start"], steps)
