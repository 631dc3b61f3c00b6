"""The transformer of all generators of tokens, with RMSNorm, SwiGLU, and normalized queries and keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import keras
from keras import ops
from pydantic import Field, PositiveInt

from kgen.nn import Dropout, FusedDense, RematLayer, attention_weights, swiglu
from kgen_plugin_tokens.positions import rotate

Tensor = Any
Shape = tuple[int | None, ...]
Pair = tuple[Tensor, Tensor]
"""Keys and values, (B, H, n, d) each."""

NEVER = -30_000.0
"""The logit of a masked position. It is representable in every floating-point type, and its weight is 0."""


@dataclass(frozen=True)
class Transformer:
    """Options of a transformer: its size, its positions, and how it reads the text.

    Args:
        width: Dimension of the tokens' vectors.
        depth: Number of blocks.
        heads: Number of attention heads. It must divide `width` into heads with an even number of features.
        mlp_ratio: Number of hidden features of the gated MLP, divided by `width`.
        dropout: Dropout rate of each branch of a block, in [0, 1).
        positions: "rotary" (attention depends on the distance of two tokens on the grid, Su et al. 2021) or "learned"
            (one vector per place).
        text: "cross" (each block attends to the text) or "prefix" (the text stands before the tokens in the sequence).
    """

    width: Annotated[int, Field(ge=8, multiple_of=2)] = 256
    depth: PositiveInt = 6
    heads: PositiveInt = 4
    mlp_ratio: Annotated[float, Field(gt=0)] = 2.67
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    positions: Literal["rotary", "learned"] = "rotary"
    text: Literal["cross", "prefix"] = "cross"

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} cannot be divided into {self.heads} heads of an even size")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class Attention(keras.layers.Layer):
    """Attention with normalized queries and keys (Henry et al. 2020), with optional rotary positions and a cache.

    Args:
        heads: Number of heads, which must divide the width.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # the inner layers cast their inputs; angles must not be cast
        self.heads = heads

    def build(self, x_shape: Shape, context_shape: Shape | None = None) -> None:
        width = int(x_shape[-1] or 0)
        self.single = context_shape is not None and context_shape[1] == 1  # one position to attend to: see `read`
        self.out = _dense(width, self.dtype_policy, "out", x_shape)
        if self.single:
            self.v = _dense(width, self.dtype_policy, "v", context_shape)
            return
        self.q = _dense(width, self.dtype_policy, "q", x_shape)
        self.kv = _dense(2 * width, self.dtype_policy, "kv", context_shape or x_shape, parts=2)
        self.norm_q, self.norm_k = (rms_norm(self.dtype_policy, name) for name in ("norm_q", "norm_k"))
        for norm in (self.norm_q, self.norm_k):
            norm.build((None, self.heads, None, width // self.heads))

    def read(self, context: Tensor, angles: Tensor | None = None) -> Pair:
        """Returns the keys and values of a context (B, n, D). The keys are rotated by `angles` (B or 1, n, d/2).

        If the context has a single position, both are the values: queries and keys would have no gradient.
        """
        if self.single:
            (v,) = self._heads(self.v(context), 1)
            return v, v
        k, v = self._heads(self.kv(context), 2)
        k = self.norm_k(k)
        return (k if angles is None else rotate(k, angles)), v

    def call(self, x: Tensor, pair: Pair, sees: Tensor | None, angles: Tensor | None = None) -> Tensor:
        """Attends from x (B, m, C) to the keys and values of n positions.

        Args:
            x: (B, m, C).
            pair: Keys and values, (B, H, n, d) each.
            sees: Attention mask, bool (B or 1, 1, m or 1, n); None: all positions are seen.
            angles: (B or 1, m, d/2), the rotation of the queries; None: no rotation.

        Returns:
            (B, m, C).
        """
        k, v = pair
        if self.single:  # (B, H, 1, d) -> (B, m, C)
            return ops.broadcast_to(self.out(ops.reshape(v, (-1, 1, x.shape[-1]))), ops.shape(x))
        (q,) = self._heads(self.q(x), 1)
        q = self.norm_q(q)
        q = q if angles is None else rotate(q, angles)
        logits = ops.cast(ops.matmul(q * k.shape[-1] ** -0.5, ops.swapaxes(k, 2, 3)), "float32")  # (B, H, m, n)
        if sees is not None:  # TensorFlow would fuse a sum into the product, which is 40 times slower on a CPU
            logits = ops.where(sees, logits, NEVER)
        weights = ops.cast(attention_weights(logits), v.dtype)
        y = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))  # (B, m, H, d)
        return self.out(ops.reshape(y, (-1, *x.shape[1:])))

    def _heads(self, projected: Tensor, parts: int) -> list[Tensor]:
        """Splits (B, n, parts * C) into `parts` arrays (B, H, n, d)."""
        length, width = projected.shape[1], projected.shape[2] // parts
        y = ops.reshape(projected, (-1, length, parts, self.heads, width // self.heads))
        return ops.unstack(ops.transpose(y, (2, 0, 3, 1, 4)), parts, axis=0)


class Block(RematLayer):
    """Attention to the sequence, attention to the text unless it is a prefix, and a SwiGLU MLP (Shazeer 2020)."""

    def __init__(self, options: Transformer, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # the inner layers cast their inputs; angles must not be cast
        self.options = options
        policy = self.dtype_policy
        self.norm1, self.norm3 = (rms_norm(policy, name) for name in ("norm1", "norm3"))
        self.attention = Attention(options.heads, dtype=policy, name="attention")
        self.dropout = Dropout(options.dropout, dtype=policy, name="dropout")
        if options.text == "cross":
            self.cross = Attention(options.heads, dtype=policy, name="cross")

    def build(self, x_shape: Shape, sequence_shape: Shape) -> None:
        width = self.options.width
        hidden = 8 * round(width * self.options.mlp_ratio / 8)
        for layer in (self.norm1, self.norm3, self.attention, self.dropout):
            layer.build(x_shape)
        if self.options.text == "cross":
            self.cross.build(x_shape, sequence_shape)
            self.norm2 = None if self.cross.single else rms_norm(self.dtype_policy, "norm2")
            if self.norm2 is not None:
                self.norm2.build(x_shape)
        self.expand = _dense(2 * hidden, self.dtype_policy, "expand", x_shape, parts=2)
        self.shrink = _dense(width, self.dtype_policy, "shrink", (*x_shape[:-1], hidden))

    def read(self, sequence: Tensor) -> Pair | None:
        """Returns the keys and values of the text (B, L, D), or None if the text is a prefix."""
        return self.cross.read(sequence) if self.options.text == "cross" else None

    def remember(self, x: Tensor, angles: Tensor | None) -> Pair:
        """Returns the keys and values of x (B, n, C), for `call`."""
        return self.attention.read(self.norm1(x), angles)

    def call(
        self,
        x: Tensor,
        pair: Pair,
        sees: Tensor | None,
        angles: Tensor | None,
        text: Pair | None,
        text_mask: Tensor | None,
        training: bool = False,
    ) -> Tensor:
        """Runs the block on x (B, m, C), which attends to the keys and values in `pair` and to the text: (B, m, C)."""
        x = x + self.dropout(self.attention(self.norm1(x), pair, sees, angles), training=training)
        if text is not None:
            asked = x if self.norm2 is None else self.norm2(x)
            x = x + self.dropout(self.cross(asked, text, text_mask), training=training)
        gate, value = ops.split(self.expand(self.norm3(x)), 2, axis=-1)
        return x + self.dropout(self.shrink(swiglu(value, gate)), training=training)


def key_mask(mask: Tensor) -> Tensor:
    """Turns a mask (B, n), 1 for positions that may be seen, into bool (B, 1, 1, n) for all heads and queries."""
    return ops.cast(mask, "bool")[:, None, None, :]


def rms_norm(policy: Any, name: str) -> keras.layers.Layer:
    """Root mean square normalization (Zhang and Sennrich 2019)."""
    return keras.layers.RMSNormalization(epsilon=1e-6, dtype=policy, name=name)


def _dense(units: int, policy: Any, name: str, input_shape: Shape, parts: int = 1) -> keras.layers.Layer:
    layer = FusedDense(units, parts, use_bias=False, dtype=policy, name=name)
    layer.build(input_shape)
    return layer
