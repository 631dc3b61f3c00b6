"""Both strategies in one generator: AR writes a short draft, NAR completes it, and optional rounds refine it."""

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
"""Index of the first random number of a round of refinement, divided by the number of the round."""


class Combined(Generator):
    """An autoregressive model samples a draft, and a non-autoregressive model fills in the other tokens.

    The draft has every `stride`-th token of every `stride`-th row: it is short, and decides what the image shows. A few
    passes then fill in the other tokens. After that, each of the `rounds` of refinement samples the least certain
    tokens again, given all others.

    Args:
        network: Options of the transformer that fills in tokens.
        draft: Options of the transformer that samples the draft.
        stride: Distance between the tokens of the draft, in each direction; 2 means a quarter of all tokens.
        schedule: Share of masked tokens over time, as for `NonAutoregressive`.
        smoothing: Label smoothing of the tokens that are filled in, in [0, 1).

    Raises:
        SpaceError: the tokens are not a grid, or the grid is too small for the stride.
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
                f"a draft with stride {stride} needs a grid of at least {stride}x{stride} tokens, but these are {space}"
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
        """Returns the mean of both models' losses, weighted by the numbers of their tokens, and each of them.

        Returns:
            (B,) each, in nats per token: "loss", "draft" (the exact negative log-likelihood of the draft), and
            "completion" (the negative log-probability of the masked tokens among the others).
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
        """Returns the log-likelihood of the draft's tokens among (B, N), in nats: (B,)."""
        drafted = ops.take(tokens, self.places.reshape(-1), axis=1)  # (B, M)
        logits = self.drafter(drafted, ops.convert_to_tensor(self._order), condition, training=training)
        return ops.sum(log_probability(logits, drafted), axis=1)

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(
        self, *, steps: int = 4, rounds: int = 0, rewrite: float | None = None, **options: Any
    ) -> dict[str, NoiseSpec]:
        if rewrite is not None and not rounds:
            raise ValueError("rewrite is the share that a round samples again, but there are no rounds: leave it out")
        masked_counts(self.schedule, len(self.rest), steps)  # refuses too many steps before the training
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
        """Samples the draft, fills in the other tokens, and refines the result.

        Args:
            steps: Number of passes that fill in the tokens that are not in the draft.
            rounds: Number of rounds of refinement. Each costs three passes.
            rewrite: Share of the tokens that a round samples again; 0.25 by default.
            temperature: Divisor of the logits of both models.
            top_p: Only the smallest set of most probable tokens whose probabilities sum to `top_p` can be sampled.
            randomness: Scale of the noise in the choice of the tokens that stay, as for `NonAutoregressive`.
            guidance: Weight of classifier-free guidance; 1 means no guidance, which costs half as much.
            last_token_alone: Whether the last of several steps fills in a single token, as for `NonAutoregressive`.
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
        """Returns the log-probability (B, N) of each token given about half of the others.

        The tokens are divided like the fields of a chessboard: a token sees those of the other color.
        """
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
        """Returns the log-likelihood (B,), in nats.

        It is exact for the draft. For the other tokens given the draft, it is an estimate of `any_order_bound`.
        """
        tokens = ops.reshape(ops.cast(x, "int32"), (-1, self.space.size))
        bound = any_order_bound(self.filler, tokens, condition, samples, self.rest)
        return self._draft_likelihood(tokens, condition) + bound


def _keys(keys: Tensor, number: int) -> Tensor:
    """Derives other keys (B, 2) int32 from `keys`."""
    return ops.cast((uniform(keys, ROUND * number, (2,)) - 0.5) * 2.0**31, "int32")
