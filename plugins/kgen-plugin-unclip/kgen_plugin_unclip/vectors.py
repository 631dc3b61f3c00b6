"""Embeddings of images and texts as vectors of the length sqrt(D)."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen import ConditionSpace, Space, SpaceError

Tensor = Any


def check_embeddings(space: Space, condition_space: ConditionSpace, name: str) -> None:
    """Checks that latents are vectors, and that the "pooled" of the conditions is in the same space.

    Args:
        space, condition_space: The spaces of the latents and of the conditions.
        name: The generator, for the message.

    Raises:
        SpaceError: they are not. The message says which decoder and encoder to choose.
    """
    if space.kind != "continuous" or len(space.shape) != 1:
        raise SpaceError(f"{name} generates embeddings of images, not {space}: choose the decoder 'unclip/decoder'")
    if condition_space.pooled_dim != space.size:
        raise SpaceError(
            f"{name} compares embeddings of images and texts, but those of the images have {space.size} numbers, and "
            f"'pooled' of the encoder has {condition_space.pooled_dim}: use 'clip/clip' as the only encoder"
        )


def to_length(x: Tensor) -> Tensor:
    """Scales vectors (..., D) to the length sqrt(D), at which their numbers have a variance of about 1: float32."""
    x = ops.cast(x, "float32")
    square = ops.mean(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.maximum(square, 1e-12))
