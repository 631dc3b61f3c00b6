"""Both strategies in one generator: a short draft, token by token, then the whole at once, gone over again if asked."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from keras import ops
from pydantic import Field, NonNegativeInt

from kgen import (
    ConditionSpace,
    Generator,
    Guidance,
    NoiseSpec,
    OneOf,
    Samples,
    SeedGenerator,
    Space,
    SpaceError,
    Steps,
)
from kgen.options import Static
from kgen.random import uniform
from kgen_plugin_tokens.ar import in_order
from kgen_plugin_tokens.bidirectional import MaskedModel, any_order_bound, masked_loss
from kgen_plugin_tokens.causal import CausalModel
from kgen_plugin_tokens.masking import Schedule, masked_counts, ranks
from kgen_plugin_tokens.nar import random_mask
from kgen_plugin_tokens.sampling import log_probability, sample_tokens
from kgen_plugin_tokens.transformer import Transformer

Tensor = Any
Condition = dict[str, Tensor]

ROUND = 2**16
"""A round of refinement counts its random numbers from so many times its number."""


class Combined(Generator):
    """An autoregressive model drafts some tokens, and a non-autoregressive one fills in the others.

    The draft, of every `stride`-th token of every `stride`-th row, is short, and settles what the image is to be; the
    rest is then filled in in a few passes. After that, `rounds` may go over the result: the tokens that the model is
    least sure of, given all the others, are drawn again.

    Args:
        network: Of the model that fills in.
        draft: Of the model that drafts.
        stride: Of the draft's tokens; 2 is a quarter of all.
        schedule: As for `NonAutoregressive`.
        smoothing: Of the labels of what is filled in.

    Raises:
        SpaceError: the tokens are no grid, or too small a one for the stride.
    """

    accepts: ClassVar[tuple[str, ...]] = ("tokens",)
    likelihood = "estimate"

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        network: Transformer = Transformer(),  # noqa: B008 (it is frozen)
        draft: Transformer = Transformer(depth=4),  # noqa: B008
        stride: Annotated[int, Field(ge=2)] = 2,
        schedule: Annotated[Schedule | str, OneOf("tokens.schedule")] = "cosine",
        smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        if len(space.shape) < 2 or min(space.shape[:2]) < stride:
            raise SpaceError(
                f"a draft of every {stride}nd token of every {stride}nd row needs a larger grid than {space}"
            )
        self.network = network
        self.draft = draft
        self.stride = stride
        self.schedule = schedule
        self.smoothing = smoothing
        self.places = np.arange(space.size, dtype=np.int32).reshape(space.shape)[::stride, ::stride]  # (h, w, ...)
        self.rest = np.setdiff1d(np.arange(space.size), self.places).astype(np.int32)  # what is filled in
        texts = ((None, condition_space.length, condition_space.dim), (None, condition_space.pooled_dim))
        policy = self.dtype_policy
        self.drafter = CausalModel(draft, self.places.shape, space.vocabulary, dtype=policy, name="drafter")
        self.filler = MaskedModel(network, space.shape, space.vocabulary, dtype=policy, name="filler")
        self.drafter.build(*texts)
        self.filler.build(*texts)
        self.seed_generator = SeedGenerator()
        self._order = np.arange(self.places.size, dtype=np.int32)[None]  # row by row

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Of both parts, each by its share of the tokens.

        Returns:
            (B,) each, in nats a token: "loss", "draft" (of the tokens of the draft, exactly), and "completion" (of
            masked ones among the others).
        """
        tokens = ops.reshape(x, (-1, self.space.size))
        drafted = -self._draft_likelihood(tokens, condition, training) / self.places.size
        allowed = np.isin(np.arange(self.space.size), self.rest)
        mask = random_mask(tokens, self.schedule, self.seed_generator, allowed)
        logits = self.filler(self.filler.masked(tokens, mask), condition, training=training)
        completed = masked_loss(logits, tokens, ops.cast(mask, "float32"), self.smoothing)
        share = self.places.size / self.space.size
        loss = share * drafted + (1.0 - share) * completed
        return {"loss": loss, "draft": drafted, "completion": completed}

    def _draft_likelihood(self, tokens: Tensor, condition: Condition, training: bool = False) -> Tensor:
        """Of the draft's tokens among (B, N): (B,) nats."""
        drafted = ops.take(tokens, self.places.reshape(-1), axis=1)  # (B, M)
        logits = self.drafter(drafted, ops.convert_to_tensor(self._order), condition, training=training)
        return ops.sum(log_probability(logits, drafted), axis=1)

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(
        self, *, steps: int = 4, rounds: int = 0, rewrite: float | None = None, **options: Any
    ) -> dict[str, NoiseSpec]:
        if rewrite is not None and not rounds:
            raise ValueError("rewrite is a share of what a round draws again, but there are no rounds: leave it out")
        masked_counts(self.schedule, len(self.rest), steps)  # steps that are too many are refused before training
        return {"draft": NoiseSpec("uniform", (self.places.size,)), "steps": NoiseSpec("key")}

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        *,
        steps: Steps = 4,
        rounds: NonNegativeInt = 0,
        rewrite: Annotated[float, Field(gt=0, le=1)] | None = None,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        top_p: Annotated[float, Field(gt=0, le=1), Static(1.0)] = 1.0,
        randomness: Annotated[float, Field(ge=0)] = 4.5,
        guidance: Guidance = 1.0,
        last_token_alone: bool = False,
    ) -> Tensor:
        """Drafts, fills in, and goes over the result.

        Args:
            steps: Passes in which what is not of the draft is filled in.
            rounds: How often the result is gone over; each costs three passes.
            rewrite: Share of the tokens that a round draws again; 0.25 by default.
            temperature: What logits are divided by, of both parts.
            top_p: Only the most probable tokens can be drawn that together have this probability.
            randomness: Of which tokens stay, as for `NonAutoregressive`.
            guidance: Weight of classifier-free guidance; 1 is none, and costs half as much.
            last_token_alone: As for `NonAutoregressive`.
        """

        def sample(logits: Tensor, index: Tensor) -> Tensor:
            return sample_tokens(logits, ops.take(noise["draft"], index, axis=1), temperature=temperature, top_p=top_p)

        drafted = self.drafter.sample(ops.convert_to_tensor(self._order), condition, null_condition, sample, guidance)
        blank = ops.full((ops.shape(drafted)[0], len(self.rest)), self.filler.vocabulary, dtype="int32")
        back = np.argsort(np.concatenate([self.places.reshape(-1), self.rest])).astype(np.int32)[None]
        tokens = in_order(ops.concatenate([drafted, blank], axis=1), ops.convert_to_tensor(back))
        options = {"temperature": temperature, "top_p": top_p, "guidance": guidance}
        counts = masked_counts(self.schedule, len(self.rest), steps, last_token_alone)
        tokens, _ = self.filler.fill(
            tokens, counts, noise["steps"], condition, null_condition, randomness=randomness, **options
        )
        rewrite = 0.25 if rewrite is None else rewrite
        again = ops.maximum(ops.cast(ops.round(rewrite * ops.ones((1,)) * self.space.size), "int32"), 1)  # (1,)
        for number in range(1, rounds + 1):
            certainty = self._certainty(tokens, condition)
            doubted = self.filler.masked(tokens, ranks(certainty) < again)
            keys = _keys(noise["steps"], number)
            tokens, _ = self.filler.fill(doubted, again, keys, condition, null_condition, **options)
        return ops.reshape(tokens, (-1, *self.space.shape))

    def num_sampling_steps(self, *, steps: int = 4, rounds: int = 0, **given: Any) -> int:
        return self.places.size + steps + 3 * rounds

    def _certainty(self, tokens: Tensor, condition: Condition) -> Tensor:
        """The log-probability (B, N) of each token given half of the others: those of a chessboard's other color."""
        color = np.indices(self.space.shape).sum(axis=0).reshape(1, -1) % 2  # (1, N)
        certainty = ops.zeros_like(ops.cast(tokens, "float32"))
        for side in (0, 1):
            hidden = ops.broadcast_to(ops.convert_to_tensor(color == side), ops.shape(tokens))
            logits = self.filler(self.filler.masked(tokens, hidden), condition)
            certainty = ops.where(hidden, log_probability(logits, tokens), certainty)
        return certainty

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def likelihood_label(self, *, samples: int = 64, **given: Any) -> str:
        return f"an estimate of {samples} mask{'s' * (samples > 1)}"

    def log_likelihood(self, x: Tensor, condition: Condition, *, samples: Samples = 64) -> Tensor:
        """In nats (B,): exact of the draft, and of the others given the draft an estimate of `any_order_bound`."""
        tokens = ops.reshape(ops.cast(x, "int32"), (-1, self.space.size))
        bound = any_order_bound(self.filler, tokens, condition, samples, self.rest)
        return self._draft_likelihood(tokens, condition) + bound


def _keys(keys: Tensor, number: int) -> Tensor:
    """Other keys (B, 2) int32, made of `keys`."""
    return ops.cast((uniform(keys, ROUND * number, (2,)) - 0.5) * 2.0**31, "int32")
