"""Retrieval between images and texts."""

from __future__ import annotations

import numpy as np


def recall(similarity: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """The share of rows for which one of the k most similar columns is relevant.

    Args:
        similarity: (N, M).
        relevant: (N, M) bool. A row without a relevant column is not found.
        k: The number of columns that are looked at.
    """
    best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)  # (N, 1)
    nearer = (similarity > best).sum(axis=1)  # (N,), all of them irrelevant
    return float(((nearer < k) & relevant.any(axis=1)).mean())


def retrieval_scores(images: np.ndarray, texts: np.ndarray, captions: list[str]) -> dict[str, float]:
    """R@1 and R@5 in both directions.

    Args:
        images, texts: The embeddings (N, D) of the same N examples, of unit length.
        captions: The N texts. An image with an equal caption counts as right, too.
    """
    similarity = images @ texts.T  # (N, N)
    names = np.array(captions, object)
    relevant = names[:, None] == names[None, :]
    return {
        f"{name} R@{k}": recall(matrix, relevant, k)
        for name, matrix in (("image to text", similarity), ("text to image", similarity.T))
        for k in (1, 5)
    }
