"""The GAN: a generator network, and the discriminator that it is trained against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import keras
from keras import ops
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, Generator, NoiseSpec, SeedGenerator, Space, SpaceError
from kgen.random import per_example
from kgen_plugin_gan.augmentation import Policy, augment
from kgen_plugin_gan.networks import DiscriminatorNetwork, GeneratorNetwork
from kgen_plugin_gan.objectives import Name, Scores, discriminator_loss, generator_loss, gradient_penalty

Tensor = Any
Condition = dict[str, Tensor]


class GAN(Generator):
    """A generative adversarial network: a generator network against a discriminator (Goodfellow et al. 2014).

    One optimizer trains both networks in one `fit`, on the sum of their losses. The discriminator's loss passes no
    gradient to the generated images. The generator network's loss passes no gradient to the discriminator's weights.
    A trainable text encoder learns from the discriminator's loss alone. The defaults are those of R3GAN (Huang et al.
    2024): the relativistic loss with both gradient penalties. Train it with
    ``fit: {optimizer: {name: adamw, beta_1: 0.0, beta_2: 0.99}, clip_norm: null}``.

    Args:
        width: Number of channels of the largest feature map of both networks.
        multipliers: Number of channels of each level as a multiple of `width`, from the largest feature map to the
            smallest. Each level has half the height and width of the level before.
        patch: Height and width of the square of pixels that becomes one position of the largest feature map.
        latent_dim: Dimension of the latent vector z that an image is generated from.
        features: Number of image features that the discriminator compares with those of the text.
        objective: Adversarial loss: "relativistic", "non-saturating" or "hinge".
        penalty: Weight gamma of ``gamma / 2 (R1 + R2)``, the squared gradients at real and at generated images.
        penalty_distance: Standard deviation, per pixel channel, of the random step with which a gradient is measured.
        generator_lr_scale: Learning rate of the generator network, as a share of the discriminator's (two time-scales,
            Heusel et al. 2017). With 1.0, the generator network follows the discriminator from texture to texture, and
            images stop depending on z.
        augmentation: Augmentations of the discriminator's images: "color", "translation", "cutout".
        spectral_norm: Whether to divide the discriminator's kernels by their spectral norms.

    Raises:
        SpaceError: The space is not a grid of (height, width, channels), or `patch` and the levels do not divide it.
    """

    renamed: ClassVar[Mapping[str, str]] = {"code": "latent_dim", "painter_rate": "generator_lr_scale"}

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        width: PositiveInt = 32,
        multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 4),
        patch: PositiveInt = 2,
        latent_dim: PositiveInt = 64,
        features: PositiveInt = 128,
        objective: Name = "relativistic",
        penalty: Annotated[float, Field(ge=0)] = 1.0,
        penalty_distance: Annotated[float, Field(gt=0)] = 0.01,
        generator_lr_scale: Annotated[float, Field(gt=0)] = 0.2,
        augmentation: tuple[Policy, ...] = (),
        spectral_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        _check(space, patch * 2 ** (len(multipliers) - 1))
        self.width = width
        self.multipliers = multipliers
        self.patch = patch
        self.latent_dim = latent_dim
        self.features = features
        self.objective = objective
        self.penalty = penalty
        self.penalty_distance = penalty_distance
        self.generator_lr_scale = generator_lr_scale
        self.augmentation = augmentation
        self.spectral_norm = spectral_norm
        channels = tuple(width * m for m in multipliers)
        policy = self.dtype_policy
        self.generator = GeneratorNetwork(
            space.shape,
            latent_dim,
            channels[::-1],
            patch,
            generator_lr_scale,
            space.bounded,
            dtype=policy,
            name="generator",
        )
        self.discriminator = DiscriminatorNetwork(
            channels, patch, features, spectral_norm, dtype=policy, name="discriminator"
        )
        self.seed_generator = SeedGenerator()

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the discriminator's loss, with the gradient penalty R1 + R2, plus the generator network's loss. Their
        sum does not measure how good the images are, and need not fall: the networks are trained against each other.

        The two losses and the penalty are also returned separately. The wrong text of an image is the text of the image
        before it in the batch. Nothing else is shared between examples.
        """
        x, text = ops.cast(x, "float32"), ops.cast(condition["pooled"], "float32")
        z = per_example(keras.random.normal, (ops.shape(x)[0], self.latent_dim), self.seed_generator)  # (B, Z)
        generated = self.generator(z, ops.stop_gradient(text))
        discriminator, penalty, real = self._discriminate(x, ops.stop_gradient(generated), text, training)
        fake = self._frozen_score(self._augment(generated), ops.stop_gradient(text))
        generator = generator_loss(self.objective, ops.stop_gradient(real), fake)
        return {
            "loss": discriminator + 0.5 * self.penalty * penalty + generator,
            "discriminator": discriminator,
            "generator": generator,
            "penalty": penalty,
        }

    def _discriminate(
        self, x: Tensor, generated: Tensor, text: Tensor, training: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the discriminator's loss, R1 + R2, and its scores of the real images: (B,) each."""
        wrong_text = ops.roll(text, 1, axis=0)
        matched = ops.cast(ops.any(ops.abs(wrong_text - text) > 1e-6, axis=-1), "float32")  # (B,)
        images = self._augment(ops.concatenate([x, generated]))  # (2B, H, W, C)
        noise = per_example(keras.random.normal, ops.shape(images), self.seed_generator)
        images = ops.concatenate([images, images + self.penalty_distance * noise])  # (4B, H, W, C)
        texts = ops.concatenate([ops.stack([text, wrong_text], axis=1)] * 4)  # (4B, 2, P)
        scores = self.discriminator(images, texts, training=training)  # (4B, 2)
        real, fake, real_moved, fake_moved = ops.split(scores[:, 0], 4)
        penalty = gradient_penalty(real, real_moved, self.penalty_distance)
        penalty = penalty + gradient_penalty(fake, fake_moved, self.penalty_distance)
        wrong = ops.split(scores[:, 1], 4)[0]
        loss = discriminator_loss(self.objective, Scores(real, fake, wrong), matched)
        return loss, penalty, real

    def _frozen_score(self, images: Tensor, text: Tensor) -> Tensor:
        """Returns the discriminator's scores (B,). The gradient reaches the images, but not its weights."""
        trained = [ops.stop_gradient(v.value) for v in self.discriminator.trainable_variables]
        others = [ops.stop_gradient(v.value) for v in self.discriminator.non_trainable_variables]
        scores, _ = self.discriminator.stateless_call(trained, others, images, text[:, None], training=False)
        return scores[:, 0]

    def _augment(self, images: Tensor) -> Tensor:
        return augment(images, self.augmentation, self.seed_generator)

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(self, **options: Any) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (self.latent_dim,))}

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        *,
        truncation: Annotated[float, Field(gt=0, le=1)] = 1.0,
    ) -> Tensor:
        """Generates latents in one pass through the generator network.

        Args:
            truncation: Factor on z. Below 1, images vary less, and fewer of them fail (compare Brock et al. 2019).
        """
        return self.generator(truncation * noise["z"], ops.cast(condition["pooled"], "float32"))


def _check(space: Space, stride: int) -> None:
    if space.kind != "continuous" or len(space.shape) != 3:
        raise SpaceError(
            f"a GAN works on continuous latents of shape (height, width, channels), not on {space}: choose another "
            "decoder or generator"
        )
    height, width, _ = space.shape
    if height % stride or width % stride:
        raise SpaceError(
            f"a GAN with these levels and this patch needs a height and a width divisible by {stride}, but the latents "
            f"are {height}x{width}: change the size of the images to a multiple of {stride}, or use fewer multipliers"
        )
