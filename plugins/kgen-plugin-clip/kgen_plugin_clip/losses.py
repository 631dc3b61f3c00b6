"""The losses of contrastive training, one per example, with the examples of all replicas as negatives."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen.backend.replicas import gather_over_replicas

Tensor = Any

CLOSE = 1e-5
"""Difference of cosines below which the right text counts as the nearest, despite rounding."""


def softmax_losses(images: Tensor, texts: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """The symmetric cross-entropy of CLIP (Radford et al. 2021, figure 3), one number per example.

    It is the mean of two cross-entropies: that of choosing the text of an image among the texts of all replicas, and
    that of choosing the image of a text. The mean over the examples of all replicas is the loss of the global batch.

    Args:
        images, texts: The embeddings (B, D) of the same B examples, of unit length, float32.
        scale: The inverse of the temperature, a scalar.

    Returns:
        "loss" (B,), the mean of both cross-entropies in nats; and "accuracy" (B,), 1.0 where the text of an image is
        the nearest of all texts.
    """
    every_image, every_text = gather_over_replicas(images), gather_over_replicas(texts)  # (N, D)
    agreement = ops.sum(images * texts, axis=-1)  # (B,)
    to_texts = ops.matmul(images, ops.transpose(every_text))  # (B, N)
    to_images = ops.matmul(texts, ops.transpose(every_image))  # (B, N)
    normalizers = ops.logsumexp(scale * to_texts, axis=-1) + ops.logsumexp(scale * to_images, axis=-1)  # (B,)
    return {"loss": 0.5 * normalizers - scale * agreement, "accuracy": _accuracy(agreement, to_texts)}


def sigmoid_losses(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The loss of SigLIP (Zhai et al. 2023, section 3.2), one number per example.

    Each pair of an image and a text is classified separately, as matching or not. The loss of an example is the sum
    over the pairs of its image with the texts of all replicas.

    Args:
        images, texts, scale: As for `softmax_losses`.
        bias: A scalar that is added to the scaled cosines.

    Returns:
        As for `softmax_losses`.
    """
    agreement = ops.sum(images * texts, axis=-1)  # (B,)
    to_texts = ops.matmul(images, ops.transpose(gather_over_replicas(texts)))  # (B, N)
    # -log sigmoid(-x) = softplus(x) for a wrong pair, and -log sigmoid(x) = softplus(x) - x for the right one
    loss = ops.sum(ops.softplus(scale * to_texts + bias), axis=-1) - (scale * agreement + bias)
    return {"loss": loss, "accuracy": _accuracy(agreement, to_texts)}


def _accuracy(agreement: Tensor, to_texts: Tensor) -> Tensor:
    return ops.cast(agreement >= ops.max(to_texts, axis=-1) - CLOSE, "float32")
