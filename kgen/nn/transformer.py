"""The block of a plain transformer."""

from __future__ import annotations

from typing import Any

import keras

from kgen.nn.activations import gelu
from kgen.nn.attention import MultiHeadAttention
from kgen.nn.dropout import Dropout
from kgen.nn.remat import RematLayer

Tensor = Any


class TransformerBlock(RematLayer):
    """Self-attention and a hidden layer, each normalized before and added to its input (Xiong et al. 2020, figure 1b).

    Args:
        heads: Number of attention heads, which must divide the width of `x`.
        hidden: Width of the hidden layer, whose activation is GELU.
        dropout: Dropout rate of both residual branches, in [0, 1).
        causal: Whether a position attends only to itself and to earlier positions.
    """

    def __init__(self, heads: int, hidden: int, dropout: float = 0.0, *, causal: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.hidden = hidden
        self.dropout = dropout
        self.causal = causal
        policy = self.dtype_policy
        self.norm1 = keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name="norm1")
        self.attention = MultiHeadAttention(heads, use_bias=False, causal=causal, dtype=policy, name="attention")
        self.norm2 = keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name="norm2")
        self.widen = keras.layers.Dense(hidden, dtype=policy, name="widen")
        self.drop = Dropout(dropout, dtype=policy, name="drop")

    def build(self, x_shape: tuple[int | None, ...], mask_shape: tuple[int | None, ...] | None = None) -> None:
        self.narrow = keras.layers.Dense(x_shape[-1], dtype=self.dtype_policy, name="narrow")
        for layer in (self.norm1, self.attention, self.norm2, self.widen):
            layer.build(x_shape)
        self.narrow.build((*x_shape[:-1], self.hidden))

    def call(self, x: Tensor, mask: Tensor | None = None, training: bool = False) -> Tensor:
        """(B, L, D) -> (B, L, D).

        Args:
            mask: (B, L), 1 for positions to attend to and 0 for the others, with at least one 1; None: all positions.
        """
        x = x + self.drop(self.attention(self.norm1(x), key_mask=mask), training=training)
        return x + self.drop(self.narrow(gelu(self.widen(self.norm2(x)))), training=training)
