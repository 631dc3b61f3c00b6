"""The generator: a painter, and the critic that it is trained against."""

from __future__ import annotations

from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, Generator, NoiseSpec, SeedGenerator, Space, SpaceError
from kgen_plugin_gan.augmentation import Policy, augment
from kgen_plugin_gan.networks import Critic, Painter
from kgen_plugin_gan.objectives import Name, Scores, critic_loss, gradient_penalty, painter_loss

Tensor = Any
Condition = dict[str, Tensor]


class GAN(Generator):
    """A painter learns to make pictures that a critic cannot tell from real ones (Goodfellow et al. 2014).

    Both are trained by one optimizer in one `fit`, on the sum of two losses that do not see each other: the critic's is
    of painted pictures through which no gradient passes; the painter's is of a critic whose weights take none. A text
    encoder that is trained learns from the critic's loss alone. The defaults are those of R3GAN (Huang et al. 2024):
    relativistic pairs, and both penalties. Train it with ``fit: {optimizer: {name: adamw, beta_1: 0.0, beta_2: 0.99},
    clip_norm: null}``.

    Args:
        width: Channels of the largest map of painter and critic.
        multipliers: Channels of every level, times `width`, the largest map first; each after the first has half the
            height and width.
        patch: Height and width of the squares of pixels that are one position of the largest map.
        code: Numbers of the code z that a picture is painted from.
        features: Of a picture, which the critic compares with the text's.
        objective: "relativistic", "non-saturating" or "hinge".
        penalty: Weight gamma of ``gamma / 2 (R1 + R2)``, the squared gradients at real and at painted pictures.
        penalty_distance: How far apart the two points are that a gradient is measured between, in each number.
        painter_rate: Share of the learning rate at which the painter learns (two time-scales, Heusel et al. 2017): as
            fast as the critic, it would follow the critic from texture to texture and lose what z should vary.
        augmentation: What pictures undergo before the critic sees them: "colour", "translation", "cutout".
        spectral_norm: Whether the critic's kernels are divided by their spectral norms.

    Raises:
        SpaceError: the space is no grid of (height, width, channels), or `patch` and the levels do not divide it.
    """

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        width: PositiveInt = 32,
        multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 4),
        patch: PositiveInt = 2,
        code: PositiveInt = 64,
        features: PositiveInt = 128,
        objective: Name = "relativistic",
        penalty: Annotated[float, Field(ge=0)] = 1.0,
        penalty_distance: Annotated[float, Field(gt=0)] = 0.01,
        painter_rate: Annotated[float, Field(gt=0)] = 0.2,
        augmentation: tuple[Policy, ...] = (),
        spectral_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        _check(space, patch * 2 ** (len(multipliers) - 1))
        self.width = width
        self.multipliers = multipliers
        self.patch = patch
        self.code = code
        self.features = features
        self.objective = objective
        self.penalty = penalty
        self.penalty_distance = penalty_distance
        self.painter_rate = painter_rate
        self.augmentation = augmentation
        self.spectral_norm = spectral_norm
        channels = tuple(width * m for m in multipliers)
        policy = self.dtype_policy
        self.painter = Painter(
            space.shape, code, channels[::-1], patch, painter_rate, space.bounded, dtype=policy, name="painter"
        )
        self.critic = Critic(channels, patch, features, spectral_norm, dtype=policy, name="critic")
        self.seed_generator = SeedGenerator()

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """The sum of the critic's loss and the painter's; each, and the mean gradient penalty, by itself.

        The wrong text is that of the next picture in the batch: the only thing an example takes from another one.
        """
        x, text = ops.cast(x, "float32"), ops.cast(condition["pooled"], "float32")
        z = keras.random.normal((ops.shape(x)[0], self.code), seed=self.seed_generator)  # (B, Z)
        painted = self.painter(z, ops.stop_gradient(text))
        critic, penalty, real = self._criticise(x, ops.stop_gradient(painted), text, training)
        fake = self._frozen_score(self._augment(painted), ops.stop_gradient(text))
        painter = painter_loss(self.objective, ops.stop_gradient(real), fake)
        return {
            "loss": critic + 0.5 * self.penalty * penalty + painter,
            "critic": critic,
            "painter": painter,
            "penalty": penalty,
        }

    def _criticise(self, x: Tensor, painted: Tensor, text: Tensor, training: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The critic's loss, R1 + R2, and its scores of the real pictures: (B,) each."""
        wrong_text = ops.roll(text, 1, axis=0)
        matched = ops.cast(ops.any(ops.abs(wrong_text - text) > 1e-6, axis=-1), "float32")  # (B,)
        pictures = self._augment(ops.concatenate([x, painted]))  # (2B, H, W, C)
        noise = keras.random.normal(ops.shape(pictures), seed=self.seed_generator)
        pictures = ops.concatenate([pictures, pictures + self.penalty_distance * noise])  # (4B, H, W, C)
        texts = ops.concatenate([ops.stack([text, wrong_text], axis=1)] * 4)  # (4B, 2, P)
        scores = self.critic(pictures, texts, training=training)  # (4B, 2)
        real, fake, real_moved, fake_moved = ops.split(scores[:, 0], 4)
        penalty = gradient_penalty(real, real_moved, self.penalty_distance)
        penalty = penalty + gradient_penalty(fake, fake_moved, self.penalty_distance)
        wrong = ops.split(scores[:, 1], 4)[0]
        loss = critic_loss(self.objective, Scores(real, fake, wrong), matched)
        return loss, penalty, real

    def _frozen_score(self, pictures: Tensor, text: Tensor) -> Tensor:
        """The critic's scores (B,), as a function of the pictures alone: its weights take no gradient."""
        trained = [ops.stop_gradient(v.value) for v in self.critic.trainable_variables]
        others = [ops.stop_gradient(v.value) for v in self.critic.non_trainable_variables]
        scores, _ = self.critic.stateless_call(trained, others, pictures, text[:, None], training=False)
        return scores[:, 0]

    def _augment(self, pictures: Tensor) -> Tensor:
        return augment(pictures, self.augmentation, self.seed_generator)

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(self, **options: Any) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (self.code,))}

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        *,
        truncation: Annotated[float, Field(gt=0, le=1)] = 1.0,
    ) -> Tensor:
        """Paints, in one step.

        Args:
            truncation: Scales the code: below 1, pictures vary less, and fewer go wrong (compare Brock et al. 2019).
        """
        return self.painter(truncation * noise["z"], ops.cast(condition["pooled"], "float32"))


def _check(space: Space, stride: int) -> None:
    if space.kind != "continuous" or len(space.shape) != 3:
        raise SpaceError(f"a GAN works on continuous latents of shape (height, width, channels), not on {space}")
    height, width, _ = space.shape
    if height % stride or width % stride:
        raise SpaceError(
            f"a GAN with these levels and this patch needs a height and a width that {stride} divides, but the latents "
            f"are {height}x{width}: change the size of the images to a multiple of {stride}, or use fewer multipliers"
        )
