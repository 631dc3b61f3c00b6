"""The non-autoregressive generator: all tokens at once, in a few passes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import keras
import numpy as np
from keras import ops
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, Generator, NoiseSpec, SeedGenerator, Space
from kgen.random import uniform
from kgen_plugin_tokens.bidirectional import MaskedModel, any_order_bound, masked_loss
from kgen_plugin_tokens.masking import SCHEDULES, Schedule, counts_up_to, masked_counts, ranks
from kgen_plugin_tokens.transformer import Transformer

Tensor = Any
Condition = dict[str, Tensor]

CHOICE = 2**20
"""The number, of a key's draws, that says which tokens of a picture are drawn anew; those of steps are smaller."""


class NonAutoregressive(Generator):
    """Learns to fill in masked tokens, and fills in all of them in a few passes (Chang et al. 2022; 2023).

    One pass draws each token without regard to what is drawn beside it. In several, only the tokens that the model is
    surest of stay, and the others are drawn again, with these in view.

    Args:
        network: The transformer.
        schedule: Of the share that is masked, in training and drawing: "cosine", "linear" or "arccos".
        smoothing: Of labels, in [0, 1).
        corruption: The share of the tokens not masked that are replaced by random ones in training, and to be
            recognised: `generate` can then `revise`. In [0, 1).
    """

    accepts: ClassVar[tuple[str, ...]] = ("tokens",)
    guidable: ClassVar[bool] = True
    edits: ClassVar[bool] = True
    inpaints: ClassVar[bool] = True
    likelihood = "lower bound"

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        network: Transformer = Transformer(),  # noqa: B008 (it is frozen)
        schedule: Schedule = "cosine",
        smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        corruption: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        self.network = network
        self.schedule = schedule
        self.smoothing = smoothing
        self.corruption = corruption
        self.model = MaskedModel(network, space.shape, space.vocabulary, dtype=self.dtype_policy, name="model")
        self.model.build((None, condition_space.length, condition_space.dim), (None, condition_space.pooled_dim))
        self.seed_generator = SeedGenerator()

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """The mean negative log-probability of the masked tokens, in nats (MaskGIT, equation 2).

        Returns:
            (B,) each: "loss", and "accuracy", the share of masked tokens that were thought the most probable.
        """
        tokens = ops.reshape(x, (-1, self.space.size))
        mask = random_mask(tokens, self.schedule, self.seed_generator)  # (B, N)
        shown, counted = tokens, mask
        if self.corruption:
            draws = keras.random.uniform((2, *ops.shape(tokens)), seed=self.seed_generator)
            other = ops.cast(draws[0] * self.model.vocabulary, "int32")
            wrong = draws[1] < self.corruption
            shown, counted = ops.where(wrong, other, tokens), ops.logical_or(mask, wrong)
        logits = self.model(self.model.masked(shown, mask), condition, training=training)
        weight = ops.cast(counted, "float32")
        right = ops.cast(ops.cast(ops.argmax(logits, axis=-1), "int32") == tokens, "float32")
        accuracy = ops.sum(right * weight, axis=1) / ops.maximum(ops.sum(weight, axis=1), 1.0)
        return {"loss": masked_loss(logits, tokens, weight, self.smoothing), "accuracy": accuracy}

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(self, *, steps: int = 8, **options: Any) -> dict[str, NoiseSpec]:
        masked_counts(self.schedule, self.space.size, steps)  # steps that are too many are refused before training
        return {"steps": NoiseSpec("key")}

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        source: Tensor | None = None,
        region: Tensor | None = None,
        *,
        steps: PositiveInt = 8,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        top_p: Annotated[float, Field(gt=0, le=1)] = 1.0,
        randomness: Annotated[float, Field(ge=0)] = 4.5,
        guidance: Annotated[float, Field(ge=0)] = 1.0,
        guidance_rises: bool = False,
        revise: bool = False,
        strength: Annotated[float, Field(gt=0, le=1)] = 0.6,
    ) -> Tensor:
        """Fills in all tokens; or some of those of a picture, if there is a `source`: random ones, or a `region`'s.

        Args:
            steps: Passes through the network, from 1 to the number of tokens.
            temperature: What logits are divided by.
            top_p: Only the most probable tokens can be drawn that together have this probability.
            randomness: Of which tokens stay (MaskGIT's choice temperature), fading to 0 at the last step.
            guidance: Weight of classifier-free guidance, of the logits; 1 is none, and costs half as much.
            guidance_rises: Whether its weight begins at 1 and rises to `guidance`, for more variety.
            revise: Whether tokens that stayed can be drawn again when the model doubts them; wants `corruption`.
            strength: Share of the tokens of a `source` that are drawn anew, where there is no `region`.
        """
        count, size = ops.shape(condition["mask"])[0], self.space.size
        to_fill = size if source is None else max(1, round(strength * size))
        counts = masked_counts(self.schedule, to_fill, min(steps, to_fill))
        if region is not None:
            tokens, counts = self._open(source, region, steps)
        elif source is None:
            tokens = ops.full((count, size), self.model.vocabulary, dtype="int32")
        else:
            chosen = ranks(uniform(noise["steps"], CHOICE, (size,))) < to_fill
            tokens = self.model.masked(ops.cast(ops.reshape(source, (-1, size)), "int32"), chosen)
        tokens, _ = self.model.fill(
            tokens,
            counts,
            noise["steps"],
            condition,
            null_condition,
            temperature=temperature,
            top_p=top_p,
            randomness=randomness,
            guidance=guidance,
            rising=guidance_rises,
            revise=revise,
        )
        return ops.reshape(tokens, (-1, *self.space.shape))

    def _open(self, source: Tensor, region: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Masks a region (B, h, w) of latents: tokens (B, N), and how many are masked before each step, (B, steps)."""
        inner = self.space.shape[2:]
        cells = ops.reshape(region, (-1, *self.space.shape[:2], *(1 for _ in inner)))
        mask = ops.reshape(ops.tile(cells, (1, 1, 1, *inner)), (-1, self.space.size))  # (B, N)
        count = ops.sum(ops.cast(mask, "int32"), axis=1)  # (B,)
        table = ops.convert_to_tensor(counts_up_to(self.schedule, self.space.size, steps))
        tokens = ops.cast(ops.reshape(source, (-1, self.space.size)), "int32")
        return self.model.masked(tokens, mask), ops.take(table, count, axis=0)

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def log_likelihood(self, x: Tensor, condition: Condition, *, samples: PositiveInt = 16) -> Tensor:
        """A lower bound (B,), in nats: see `any_order_bound`, of which `samples` masks are taken."""
        tokens = ops.reshape(ops.cast(x, "int32"), (-1, self.space.size))
        return any_order_bound(self.model, tokens, condition, samples, np.arange(self.space.size))


def random_mask(tokens: Tensor, schedule: Schedule, seed: SeedGenerator, allowed: np.ndarray | None = None) -> Tensor:
    """Masks random places, as many as the schedule says for a random time.

    Args:
        tokens: (B, N).
        allowed: (N,) of True for the places that can be masked; None: all.

    Returns:
        (B, N) bool, one or more of each row True.
    """
    batch, size = ops.shape(tokens)[0], tokens.shape[1]
    most = size if allowed is None else int(allowed.sum())
    share = SCHEDULES[schedule](keras.random.uniform((batch, 1), seed=seed), ops)  # (B, 1)
    wanted = ops.maximum(ops.ceil(share * most), 1.0)
    place = keras.random.uniform((batch, size), seed=seed)
    if allowed is not None:
        place = ops.where(ops.convert_to_tensor(allowed)[None], place, 2.0)
    return ops.cast(ranks(place), "float32") < wanted
