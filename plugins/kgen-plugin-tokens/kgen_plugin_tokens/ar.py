"""The autoregressive generator: it samples one token after the other."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import keras
import numpy as np
from keras import ops
from pydantic import Field, PositiveInt

from kgen import (
    ConditionSpace,
    Generator,
    Guidance,
    LossAxis,
    NoiseSpec,
    OneOf,
    SeedGenerator,
    Space,
    fori_loop,
    record_levels,
)
from kgen.options import Static
from kgen.random import per_example
from kgen_plugin_tokens.causal import CausalModel
from kgen_plugin_tokens.lengths import (
    END,
    Length,
    LengthHead,
    before_end,
    check_length,
    ended,
    lengths_of,
    places_before,
    up_to_end,
)
from kgen_plugin_tokens.positions import reading_order
from kgen_plugin_tokens.sampling import log_probability, sample_tokens
from kgen_plugin_tokens.transformer import Transformer

Tensor = Any
Condition = dict[str, Tensor]

ORDERS = 16
"""Number of random orders over which the likelihood of `order: random` is averaged."""

MAX_PARTS = 16
"""Largest number of parts into which the positions are divided for the curve of the loss."""


class Autoregressive(Generator):
    """Samples each token given the text and all tokens before it (Ramesh et al. 2021).

    Args:
        network: Options of the transformer.
        order: Order in which tokens are read and sampled: "raster", "columns" or "spiral". "random" learns all orders
            (Uria et al. 2014), and samples an order for each image.
        length: For sequences, whose token 0 is the end token. "fixed": the end token is sampled like any other token,
            and the sequence is padded with end tokens. "predicted": the length is predicted from the text, and that
            number of tokens is sampled. None: there is no end token, as for images.

    Raises:
        SpaceError: there is a `length`, but the tokens are not a sequence.
        ValueError: there are a `length` and an `order` other than "raster".
    """

    accepts: ClassVar[tuple[str, ...]] = ("tokens",)
    likelihood = "exact"  # except with order "random": see `likelihood_label`

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        network: Transformer = Transformer(),  # noqa: B008 (it is frozen)
        order: Annotated[Any, OneOf("tokens.order")] | Literal["random"] = "raster",
        length: Length | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        check_length(length, space)
        if length is not None and order != "raster":
            raise ValueError(f"length '{length}' is for sequences, which are read from the first token to the last")
        self.network = network
        self.order = order
        self.length = length
        pooled, forbidden_token = condition_space.pooled_dim, None
        if length == "predicted":
            self.lengths = LengthHead(space.size, dtype=self.dtype_policy, name="lengths")
            self.lengths.build((None, pooled))
            pooled, forbidden_token = pooled + space.size + 1, END  # the length is part of the condition
        policy = self.dtype_policy
        self.model = CausalModel(
            network, space.shape, space.vocabulary, forbidden_token=forbidden_token, dtype=policy, name="model"
        )
        self.model.build((None, condition_space.length, condition_space.dim), (None, pooled))
        self.seed_generator = SeedGenerator()
        self._order = reading_order("raster" if order == "random" else order, space.shape)[None]  # (1, N)

    # ---- training -------------------------------------------------------------------------------------------------

    @property
    def loss_axis(self) -> LossAxis | None:
        """The position of a token in the order of reading; None for sequences, which have different lengths."""
        size = self.space.size
        return None if self.length is not None else LossAxis("position", 0, size, min(size, MAX_PARTS))

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the mean negative log-probability of the tokens, in nats.

        The levels of the loss are the positions of the tokens in the order of reading.

        Returns:
            (B,) "loss". If the length is predicted, also "length", its negative log-probability, which is part of the
            loss with the same weight as one token.
        """
        if self.length is not None:
            log_p, length = self._sequence_likelihood(x, condition, training)
            return {"loss": -log_p / self.space.size} | ({} if length is None else {"length": -length})
        order = ops.convert_to_tensor(self._order)
        if self.order == "random":
            numbers = per_example(keras.random.uniform, (ops.shape(x)[0], self.space.size), self.seed_generator)
            order = _permutations(numbers)
        log_p = self._log_probabilities(x, order, condition, training)  # (B, N)
        record_levels(ops.arange(self.space.size), -log_p)
        return {"loss": -ops.sum(log_p, axis=1) / self.space.size}

    def _log_likelihood(self, x: Tensor, order: Tensor, condition: Condition) -> Tensor:
        return ops.sum(self._log_probabilities(x, order, condition), axis=1)

    def _log_probabilities(self, x: Tensor, order: Tensor, condition: Condition, training: bool = False) -> Tensor:
        """Returns the log-probability (B, N) of each token, in the order of reading."""
        tokens = in_order(ops.reshape(x, (-1, self.space.size)), order)
        return log_probability(self.model(tokens, order, condition, training=training), tokens)

    def _sequence_likelihood(
        self, x: Tensor, condition: Condition, training: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the log-likelihood (B,) of sequences (B, N), in nats, and the part of it that is the length's.

        Tokens after the first end token do not count.
        """
        tokens = ended(ops.cast(x, "int32"))
        counted, length = up_to_end(tokens), None
        if self.length == "predicted":
            counted, lengths = before_end(tokens), lengths_of(tokens)
            length = self.lengths.log_probability(lengths, condition)  # (B,)
            condition = self.lengths.condition_on_length(lengths, condition)
        logits = self.model(tokens, ops.convert_to_tensor(self._order), condition, training=training)
        log_p = ops.sum(ops.where(counted, log_probability(logits, tokens), 0.0), axis=1)
        return log_p if length is None else log_p + length, length

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(self, **options: Any) -> dict[str, NoiseSpec]:
        specs = {"tokens": NoiseSpec("uniform", (self.space.size,))}
        if self.length == "predicted":
            specs["length"] = NoiseSpec("uniform", (1,))
        return {**specs, "order": NoiseSpec("uniform", (self.space.size,))} if self.order == "random" else specs

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        *,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        top_k: PositiveInt | None = None,
        top_p: Annotated[float, Field(gt=0, le=1), Static(1.0)] = 1.0,
        guidance: Guidance = 1.0,
    ) -> Tensor:
        """Samples the tokens one by one, and before them the length if it is predicted.

        Args:
            temperature: Divisor of the logits of tokens and lengths. Below 1, probable tokens become more probable.
            top_k: Number of the most probable tokens, or lengths, that can be sampled; None: all.
            top_p: Only the smallest set of most probable tokens, or lengths, whose probabilities sum to `top_p` can be
                sampled.
            guidance: Weight of classifier-free guidance of the logits; 1 means no guidance, which costs half as much.
        """
        order = _permutations(noise["order"]) if self.order == "random" else ops.convert_to_tensor(self._order)
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

        def sample(logits: Tensor, index: Tensor) -> Tensor:
            uniform = ops.take(noise["tokens"], index, axis=1)  # (B,)
            return sample_tokens(logits, uniform, **options)

        if self.length == "predicted":
            lengths = self.lengths.sample(noise["length"], condition, null_condition, guidance, **options)
            condition, null_condition = (
                self.lengths.condition_on_length(lengths, c) for c in (condition, null_condition)
            )
        tokens = self.model.sample(order, condition, null_condition, sample, guidance)
        if self.length == "fixed":
            tokens = ended(tokens)
        if self.length == "predicted":
            tokens = ops.where(places_before(lengths, self.space.size), tokens, END)
        return ops.reshape(in_order(tokens, ops.argsort(order, axis=1)), (-1, *self.space.shape))

    def num_sampling_steps(self, **given: Any) -> int:
        return self.space.size

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def likelihood_label(self, **given: Any) -> str:
        return f"a bound of {ORDERS} orders" if self.order == "random" else "exact"

    def log_likelihood(self, x: Tensor, condition: Condition) -> Tensor:
        """Returns the log-likelihood (B,), in nats. It is exact with a fixed order.

        With order "random", the model generates from the mean of p(x | order) over all orders. The logarithm of the
        mean over a few orders is, on average, a lower bound of that of the mean over all (Burda et al. 2016, theorem
        1). `ORDERS` orders are used, the same ones in each call.
        """
        if self.length is not None:
            return self._sequence_likelihood(x, condition)[0]
        if self.order != "random":
            return self._log_likelihood(x, ops.convert_to_tensor(self._order), condition)
        rng = np.random.default_rng(0)
        orders = ops.convert_to_tensor(np.stack([rng.permutation(self.space.size) for _ in range(ORDERS)]), "int32")

        def add(i: Tensor, total: Tensor) -> Tensor:
            return ops.logaddexp(total, self._log_likelihood(x, ops.take(orders, i, axis=0)[None], condition))

        nothing = ops.zeros((ops.shape(x)[0],)) - 1e30
        return fori_loop(0, ORDERS, add, nothing) - math.log(ORDERS)


def in_order(tokens: Tensor, order: Tensor) -> Tensor:
    """Rearranges tokens (B, N) by `order` (B or 1, N)."""
    return ops.take_along_axis(tokens, ops.broadcast_to(ops.cast(order, "int32"), ops.shape(tokens)), axis=1)


def _permutations(uniform: Tensor) -> Tensor:
    """Turns independent uniform numbers (B, N) into random permutations of 0 .. N-1: int32 (B, N)."""
    return ops.cast(ops.argsort(uniform, axis=1), "int32")
