"""The non-autoregressive generator: it samples all tokens in a few passes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import keras
import numpy as np
from keras import ops
from pydantic import Field

from kgen import (
    ConditionSpace,
    Generator,
    Guidance,
    LossAxis,
    NoiseSpec,
    OneOf,
    Samples,
    SeedGenerator,
    Space,
    Steps,
    Strength,
    part,
    record_levels,
)
from kgen.options import Static
from kgen.random import per_example, uniform
from kgen_plugin_tokens.bidirectional import MaskedModel, any_order_bound, masked_loss
from kgen_plugin_tokens.lengths import (
    END,
    Length,
    LengthHead,
    before_end,
    check_length,
    ended,
    lengths_of,
    places_before,
)
from kgen_plugin_tokens.masking import Schedule, masked_counts, ranks, row_counts
from kgen_plugin_tokens.transformer import Transformer

Tensor = Any
Condition = dict[str, Tensor]
Pace = tuple[int, bool]
"""`steps` and `last_token_alone`: the options of `generate` that set how many tokens each step fills in."""

CHOICE = 2**20
"""Index of the random numbers that choose the tokens of a `source` to sample again. The steps have smaller indices."""


class NonAutoregressive(Generator):
    """Learns to fill in masked tokens, and samples an image in a few passes (Chang et al. 2022; 2023).

    The tokens of one pass are sampled independently of each other. After each of several passes, only the most certain
    tokens stay. The others are sampled again, given the tokens that stayed.

    Args:
        network: Options of the transformer.
        schedule: Share of masked tokens over time, in training and in sampling: "cosine", "linear" or "arccos".
        smoothing: Label smoothing, in [0, 1).
        corruption: Share of the visible tokens that are replaced by random ones in training, in [0, 1). The model
            learns to correct them, as the option `revise` of `generate` requires.
        length: For sequences, whose token 0 is the end token. "fixed": sequences are padded with end tokens, which are
            masked and sampled like any other token. "predicted": the length is predicted from the text, and only the
            tokens before the end are masked and sampled. None: there is no end token, as for images.

    Raises:
        SpaceError: there is a `length`, but the tokens are not a sequence.
    """

    accepts: ClassVar[tuple[str, ...]] = ("tokens",)
    likelihood = "estimate"
    loss_axis = LossAxis("mask_ratio", 0.0, 1.0)

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        network: Transformer = Transformer(),  # noqa: B008 (it is frozen)
        schedule: Annotated[Schedule | str, OneOf("tokens.schedule")] = "cosine",
        smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        corruption: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        length: Length | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        check_length(length, space)
        self.network = network
        self.schedule = schedule
        self.smoothing = smoothing
        self.corruption = corruption
        self.length = length
        policy, forbidden_token = self.dtype_policy, END if length == "predicted" else None
        self.model = MaskedModel(
            network, space.shape, space.vocabulary, forbidden_token=forbidden_token, dtype=policy, name="model"
        )
        self.model.build((None, condition_space.length, condition_space.dim), (None, condition_space.pooled_dim))
        if length == "predicted":
            self.lengths = LengthHead(space.size, dtype=policy, name="lengths")
            self.lengths.build((None, condition_space.pooled_dim))
        self.seed_generator = SeedGenerator()

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the mean negative log-probability of the masked tokens, in nats (MaskGIT, equation 2).

        The level of a loss is the share of the tokens that are masked, from 0 to 1.

        Returns:
            (B,) each: "loss", and "accuracy", the share of masked tokens that the model predicts correctly. If the
            length is predicted, also "length", its negative log-probability, which is part of the loss.
        """
        tokens = self._tokens(x)
        there = before_end(tokens) if self.length == "predicted" else None  # (B, N)
        mask = random_mask(tokens, self.schedule, self.seed_generator, there)  # (B, N)
        shown, counted = tokens, mask
        if self.corruption:
            shown, wrong = self._corrupted(tokens, there)
            counted = ops.logical_or(mask, wrong)
        logits = self.model(self.model.masked(shown, mask), condition, training=training)
        weight = ops.cast(counted, "float32")
        right = ops.cast(ops.cast(ops.argmax(logits, axis=-1), "int32") == tokens, "float32")
        accuracy = ops.sum(right * weight, axis=1) / ops.maximum(ops.sum(weight, axis=1), 1.0)
        ratio = ops.mean(ops.cast(mask, "float32"), axis=1)  # (B,)
        if there is None:
            loss = masked_loss(logits, tokens, weight, self.smoothing)
            record_levels(ratio, loss)
            return {"loss": loss, "accuracy": accuracy}
        possible, target = logits[..., 1:], ops.maximum(tokens - 1, 0)  # without the end token
        length = -self.lengths.log_probability(lengths_of(tokens), condition)
        loss = masked_loss(possible, target, weight, self.smoothing) + length
        record_levels(ratio, loss)
        return {"loss": loss, "accuracy": accuracy, "length": length}

    def _tokens(self, x: Tensor) -> Tensor:
        """Flattens x to (B, N) int32. If there is a length, all tokens after the first end token become end tokens."""
        tokens = ops.reshape(ops.cast(x, "int32"), (-1, self.space.size))
        return tokens if self.length is None else ended(tokens)

    def _corrupted(self, tokens: Tensor, there: Tensor | None) -> tuple[Tensor, Tensor]:
        """Replaces some tokens (B, N), of those `there`, by random ones. Also returns which: (B, N) bool."""
        least = 0 if there is None else 1  # not the end token
        numbers = per_example(_two_uniform, ops.shape(tokens), self.seed_generator)  # (B, 2, N)
        other = least + ops.cast(numbers[:, 0] * (self.model.vocabulary - least), "int32")
        wrong = numbers[:, 1] < self.corruption
        wrong = wrong if there is None else ops.logical_and(wrong, there)
        return ops.where(wrong, other, tokens), wrong

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(
        self, *, steps: int = 8, guidance: float | None = None, guidance_rises: bool = False, **options: Any
    ) -> dict[str, NoiseSpec]:
        if guidance_rises and guidance is None:
            raise ValueError("guidance_rises has no effect without guidance: set guidance, or leave guidance_rises out")
        masked_counts(self.schedule, self.space.size, steps)  # refuses too many steps before the training
        length = {"length": NoiseSpec("uniform", (1,))} if self.length == "predicted" else {}
        return {"steps": NoiseSpec("key"), **length}

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        source: Tensor | None = None,
        edit_mask: Tensor | None = None,
        *,
        steps: Steps = 8,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        top_p: Annotated[float, Field(gt=0, le=1), Static(1.0)] = 1.0,
        randomness: Annotated[float, Field(ge=0)] = 4.5,
        guidance: Guidance = 1.0,
        guidance_rises: bool = False,
        revise: bool = False,
        last_token_alone: bool = False,
        strength: Strength = 0.6,
    ) -> Tensor:
        """Samples all tokens, or some tokens of a `source`: those in the `edit_mask`, or a random share.

        Args:
            steps: Number of passes through the network, from 1 to the number of tokens.
            temperature: Divisor of the logits, also of a predicted length.
            top_p: Only the smallest set of most probable tokens whose probabilities sum to `top_p` can be sampled. The
                same holds for a predicted length.
            randomness: Scale of the noise in the choice of the tokens that stay (MaskGIT's choice temperature). It
                decreases to 0 at the last step.
            guidance: Weight of classifier-free guidance of the logits; 1 means no guidance, which costs half as much.
            guidance_rises: Whether the guidance weight begins at 1 and increases to `guidance`, for more variety.
            revise: Whether tokens that stayed are sampled again if they have become uncertain. It needs a model that
                was trained with `corruption`.
            last_token_alone: Whether the last of several steps fills in a single token, see `masked_counts`. All other
                tokens then have one step less.
            strength: Share of the tokens of a `source` that are sampled again if there is no `edit_mask`. The length
                of the `source` stays.
        """
        options = {"temperature": temperature, "top_p": top_p, "guidance": guidance}
        pace = (steps, last_token_alone)
        if edit_mask is not None:
            tokens, counts = self._opened_mask(source, edit_mask, pace)
        elif self.length != "predicted":
            tokens, counts = self._opened(ops.shape(condition["mask"])[0], noise, source, pace, strength)
        elif source is None:
            lengths = self.lengths.sample(noise["length"], condition, null_condition, **options)  # (B,)
            tokens = ops.where(places_before(lengths, self.space.size), self.model.vocabulary, END)
            counts = row_counts(self.schedule, lengths, *pace)
        else:
            tokens, counts = self._opened_before_end(noise, source, pace, strength)
        more = {"randomness": randomness, "rising": guidance_rises, "revise": revise}
        tokens, _ = self.model.fill(tokens, counts, noise["steps"], condition, null_condition, **options, **more)
        tokens = tokens if self.length is None else ended(tokens)
        return ops.reshape(tokens, (-1, *self.space.shape))

    def _opened(
        self, count: int, noise: dict[str, Tensor], source: Tensor | None, pace: Pace, strength: Tensor | float
    ) -> tuple[Tensor, np.ndarray | Tensor]:
        """Returns tokens (B, N), some or all masked, and their counts before each step: (steps,) or (steps, 1, 1)."""
        size = self.space.size
        if source is None:
            tokens = ops.full((count, size), self.model.vocabulary, dtype="int32")
            return tokens, masked_counts(self.schedule, size, *pace)
        wanted = ops.maximum(ops.cast(ops.round(strength * ops.ones((1,)) * size), "int32"), 1)  # (1,)
        chosen = ranks(uniform(noise["steps"], CHOICE, (size,))) < wanted
        return self.model.masked(self._tokens(source), chosen), row_counts(self.schedule, wanted, *pace)

    def _opened_before_end(
        self, noise: dict[str, Tensor], source: Tensor, pace: Pace, strength: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Like `_opened`, but masks only tokens before each sequence's end. The counts are (steps, B, 1)."""
        tokens = self._tokens(source)
        lengths = lengths_of(tokens)  # (B,)
        wanted = ops.cast(ops.round(strength * ops.cast(lengths, "float32")), "int32")
        wanted = ops.minimum(ops.maximum(wanted, 1), lengths)
        order = ops.where(before_end(tokens), uniform(noise["steps"], CHOICE, (self.space.size,)), 2.0)
        return self.model.masked(tokens, ranks(order) < wanted[:, None]), row_counts(self.schedule, wanted, *pace)

    def _opened_mask(self, source: Tensor, edit_mask: Tensor, pace: Pace) -> tuple[Tensor, Tensor]:
        """Like `_opened`, but masks the tokens in the edit mask (B, h, w). The counts are (steps, B, 1)."""
        inner = self.space.shape[2:]
        cells = ops.reshape(edit_mask, (-1, *self.space.shape[:2], *(1 for _ in inner)))
        mask = ops.reshape(ops.tile(cells, (1, 1, 1, *inner)), (-1, self.space.size))  # (B, N)
        wanted = ops.sum(ops.cast(mask, "int32"), axis=1)  # (B,)
        return self.model.masked(self._tokens(source), mask), row_counts(self.schedule, wanted, *pace)

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def likelihood_label(self, *, samples: int = 64, **given: Any) -> str:
        return f"an estimate of {samples} mask{'s' * (samples > 1)}"

    def log_likelihood(self, x: Tensor, condition: Condition, *, samples: Samples = 64) -> Tensor:
        """Returns an estimate (B,), in nats, of the lower bound `any_order_bound` from `samples` masks.

        If the length is predicted, log p(length) is added to the bound of log p(tokens | length).
        """
        tokens = self._tokens(x)
        if self.length != "predicted":
            return any_order_bound(self.model, tokens, condition, samples, np.arange(self.space.size))
        bound = any_order_bound(self.model, tokens, condition, samples, before_end(tokens))
        return self.lengths.log_probability(lengths_of(tokens), condition) + bound


def _two_uniform(shape: tuple[Any, ...], seed: Any) -> Tensor:
    """Two uniform numbers for each token of (B, N): (B, 2, N)."""
    return ops.moveaxis(keras.random.uniform((2, *shape), seed=seed), 0, 1)


def random_mask(
    tokens: Tensor, schedule: Schedule | str, seed: SeedGenerator, allowed: np.ndarray | Tensor | None = None
) -> Tensor:
    """Masks random places. The schedule, at a random time, gives their number.

    Args:
        tokens: (B, N).
        allowed: (N,) or (B, N) bool, True for the places that can be masked; None: all places.

    Returns:
        (B, N) bool. At least one place per row is masked if any is allowed.
    """
    batch, size = ops.shape(tokens)[0], tokens.shape[1]
    share = part("tokens.schedule", schedule)(per_example(keras.random.uniform, (batch, 1), seed), ops)  # (B, 1)
    place = per_example(keras.random.uniform, (batch, size), seed)
    if allowed is None:
        return ops.cast(ranks(place), "float32") < ops.maximum(ops.ceil(share * size), 1.0)
    allowed = ops.reshape(ops.convert_to_tensor(allowed), (-1, size))  # (B or 1, N)
    most = ops.sum(ops.cast(allowed, "float32"), axis=1, keepdims=True)  # (B or 1, 1)
    wanted = ops.maximum(ops.ceil(share * most), 1.0)
    order = ranks(ops.where(allowed, place, 2.0))
    return ops.logical_and(ops.cast(order, "float32") < wanted, allowed)
