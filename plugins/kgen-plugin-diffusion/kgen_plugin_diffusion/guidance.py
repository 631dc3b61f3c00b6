"""Classifier-free guidance of the denoised image."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgen.options import is_static

Tensor = Any


def guide(conditional: Tensor, unconditional: Tensor, weight: Tensor | float, rescale: Tensor | float) -> Tensor:
    """Applies classifier-free guidance (Ho and Salimans 2022) to the denoised images of two conditions.

    Args:
        conditional, unconditional: (B, ...), denoised with the prompt and with the empty text.
        weight: Guidance weight. 1 gives the conditional image; more exaggerates what the condition changes.
        rescale: Share, 0 to 1, by which the standard deviation of each image is brought back to that of the
            conditional one (Lin et al. 2024, equation 16).
    """
    guided = unconditional + weight * (conditional - unconditional)
    if is_static(rescale, 0.0):
        return guided
    axes = tuple(range(1, len(guided.shape)))
    ratio = ops.std(conditional, axis=axes, keepdims=True) / (ops.std(guided, axis=axes, keepdims=True) + 1e-6)
    return guided * (rescale * ratio + 1.0 - rescale)
