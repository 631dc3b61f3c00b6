"""The autoregressive prior, which generates the embedding of an image component by component."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, ConfigError, Generator, Guidance, NoiseSpec, Space, make_generator
from kgen.options import Choice, Static, options
from kgen_plugin_unclip.candidates import best_candidate, candidate_noise
from kgen_plugin_unclip.components import Quantiles, QuantizedComponents
from kgen_plugin_unclip.vectors import check_embeddings

Tensor = Any
Condition = dict[str, Tensor]

COMPONENTS = 319 / 1024
"""Share of the dimensions that are kept as principal components (Ramesh et al. 2022, section 2.2)."""

AFTER_TEXT = 2
"""Number of positions after those of the text: text embedding, dot product."""

SAMPLING = ("temperature", "top_p", "guidance")
"""Sampling options that the model of the tokens must have."""

MODEL = {"name": "tokens/ar", "network": {"text": "prefix", "positions": "learned"}}
"""The default model of the tokens."""


class ARPrior(Generator):
    """The autoregressive prior of DALL-E 2 (Ramesh et al. 2022, section 2.2): text -> CLIP image embedding.

    The embedding is reduced to its principal components, in falling order of their variance. Each is quantized into
    buckets, and a model of tokens predicts them one after the other. It first reads the text, the embedding of the
    text, and the dot product of the embeddings of text and image, which is quantized, too. Sampling takes a dot product
    from the upper half of its distribution, so that the generated embedding is near that of the text. Training drops a
    share of the texts (`condition_dropout` of the run), for guidance.

    The components, and the limits of the buckets, are measured on the training latents before the training
    (`initialize`). A run does that; otherwise call it after `kgen.assemble`.

    Args:
        model: Name and options of the generator of the tokens. It must have the sampling options `temperature`, `top_p`
            and `guidance`, as `tokens/ar` has.
        components: Number of principal components. None: 319 of 1,024 dimensions, as in the paper, or the same share.
        buckets: Number of buckets of each component.
        product_buckets: Number of buckets of the dot product, each with the same number of training examples. The
            paper does not give this number.

    Raises:
        SpaceError: the latents are not vectors, or "pooled" of the encoder is not a vector of the same size; or `model`
            does not generate tokens.
        ConfigError: `model` is unknown, or lacks a sampling option.
        ValueError: there are more components than dimensions.
    """

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        model: Annotated[dict[str, Any], Choice("generator")] = MODEL,
        components: PositiveInt | None = None,
        buckets: Annotated[int, Field(ge=2)] = 1024,
        product_buckets: Annotated[int, Field(ge=2)] = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        check_embeddings(space, condition_space, "unclip/ar-prior")
        dim, text = space.size, condition_space
        if components is not None and components > dim:
            raise ValueError(f"components must be at most {dim}, the number of dimensions, not {components}")
        self.components = components
        self.buckets = buckets
        self.product_buckets = product_buckets
        count = components or max(1, round(COMPONENTS * dim))
        self.quantized = QuantizedComponents(dim, count, buckets, name="components")
        self.products = Quantiles(product_buckets, name="products")
        tokens = Space("tokens", (count,), buckets)
        self.tokens = make_generator(model, tokens, ConditionSpace(text.length + AFTER_TEXT, text.dim, text.pooled_dim))
        if missing := [name for name in SAMPLING if name not in options(type(self.tokens).generate)]:
            raise ConfigError(f"model: '{model['name']}' has no sampling option '{missing[0]}': choose 'tokens/ar'")
        self.model = {"name": model["name"], **self.tokens.config}
        self.embedding = keras.layers.Dense(text.dim, dtype=self.dtype_policy, name="embedding")
        self.product = keras.layers.Embedding(product_buckets, text.dim, dtype=self.dtype_policy, name="product")
        self.embedding.build((None, text.pooled_dim))
        for layer in (self.quantized, self.products, self.product):
            layer.build(None)
        self.tokens.built = True  # its constructor, or its first losses, create its weights

    # ---- training -------------------------------------------------------------------------------------------------

    def initialize(self, batches: Iterable[tuple[np.ndarray, Condition]]) -> None:
        """Measures the principal components, and the distribution of the dot products of images and texts."""
        self.quantized.measure(lambda: (latents for latents, _ in batches))
        found = [np.sum(latents * condition["pooled"], axis=-1) / self.space.size for latents, condition in batches]
        self.products.measure(np.concatenate(found))

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the mean negative log-probability of the tokens, in nats, and the error of the quantization.

        Returns:
            (B,) "loss", and "quantization", the mean squared error of the embeddings that the tokens stand for.
        """
        x = ops.cast(x, "float32")
        tokens = self.quantized.encode(x)  # (B, N)
        product = self.products(self._dot(x, condition))  # (B,)
        loss = self.tokens.compute_losses(tokens, self._joined(condition, product), training=training)["loss"]
        return {"loss": loss, "quantization": ops.mean(ops.square(self.quantized.decode(tokens) - x), axis=-1)}

    def _dot(self, x: Tensor, condition: Condition) -> Tensor:
        """The dot products (B,) of embeddings x (B, D) and those of the texts, for vectors of unit length."""
        return ops.sum(x * ops.cast(condition["pooled"], "float32"), axis=-1) / self.space.size

    def _joined(self, condition: Condition, product: Tensor) -> Condition:
        """Appends the embedding of the text, and the bucket (B,) of a dot product, to the sequence of the text."""
        sequence = condition["sequence"]
        after = ops.stack([self.embedding(condition["pooled"]), self.product(product)], axis=1)  # (B, 2, dim)
        return {
            "sequence": ops.concatenate([sequence, ops.cast(after, sequence.dtype)], axis=1),
            "mask": ops.pad(condition["mask"], ((0, 0), (0, AFTER_TEXT)), constant_values=1.0),
            "pooled": condition["pooled"],
        }

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(self, *, candidates: int = 1, **options: Any) -> dict[str, NoiseSpec]:
        return candidate_noise({**self.tokens.noise_spec(), "product": NoiseSpec("uniform", (1,))}, candidates)

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        *,
        candidates: PositiveInt = 1,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        top_p: Annotated[float, Field(gt=0, le=1), Static(1.0)] = 1.0,
        guidance: Guidance = 1.0,
    ) -> Tensor:
        """Generates embeddings of images, of the length sqrt(D).

        Args:
            candidates: Number of embeddings that are generated for each image. The one with the largest dot product
                with the embedding of the text is returned. Each has noise of its own.
            temperature: Divisor of the logits. Below 1, probable tokens become more probable.
            top_p: Only the smallest set of most probable tokens whose probabilities sum to `top_p` can be sampled.
            guidance: Weight of classifier-free guidance of the logits; 1 means no guidance, which costs half as much.
        """

        names = tuple(self.tokens.noise_spec())

        def generate(text: Condition, null: Condition, noise: dict[str, Tensor]) -> Tensor:
            tokens = self.tokens.generate(
                self._joined(text, self._upper_half(noise["product"][:, 0])),
                self._joined(null, self.products(self._dot(self.quantized.mean, null))),
                {name: noise[name] for name in names},
                temperature=temperature,
                top_p=top_p,
                guidance=guidance,
            )
            return self.quantized.decode(tokens)

        return best_candidate(generate, condition, null_condition, noise, (*names, "product"), candidates)

    def _upper_half(self, uniform: Tensor) -> Tensor:
        """Samples buckets (B,) of the upper half of the dot products from uniform numbers (B,) in [0, 1)."""
        least = self.product_buckets // 2
        return ops.cast(ops.floor(least + uniform * (self.product_buckets - least)), "int32")

    def num_sampling_steps(self, **given: Any) -> int:
        return self.tokens.num_sampling_steps(**{name: given[name] for name in SAMPLING if name in given})
