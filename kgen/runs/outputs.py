"""Checks of what components return for `TRIED` examples. An error names the component and its distribution."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen.errors import PluginError
from kgen.pipeline.levels import recording
from kgen.plugins.faults import address
from kgen.spaces import Space

TRIED = 2
"""Number of examples on which everything is tried."""


def try_losses(part: Any, *inputs: Any) -> Mapping[str, np.ndarray]:
    """Computes the losses of a part as in training. Raises PluginError if they, or their levels, violate the contract.

    Args:
        part: An encoder, a generator or a decoder.
        inputs: The arguments of `compute_losses`, `TRIED` examples of each.

    Returns:
        Arrays (TRIED,) by name.
    """
    with recording() as recorded:
        losses = part.compute_losses(*inputs, training=True)
    checked, axis = check_losses(losses, part), getattr(part, "loss_axis", None)
    if axis is not None and not recorded:
        raise PluginError(f"{address(part)}: has a loss_axis, but compute_losses does not call kgen.record_levels")
    for _, values in recorded if axis is not None else ():
        if len(values.shape) == 0 or values.shape[0] != TRIED:
            raise PluginError(
                f"{address(part)}: compute_losses recorded levels of losses of shape {tuple(values.shape)} for {TRIED} "
                "examples: it must be (B,) or (B, N)"
            )
    return checked


def check_losses(losses: Any, part: object) -> Mapping[str, np.ndarray]:
    """Returns the losses as arrays, if they are one finite float32 number per example; raises PluginError otherwise."""
    if not isinstance(losses, Mapping) or "loss" not in losses:
        found = sorted(map(str, losses)) if isinstance(losses, Mapping) else type(losses).__name__
        raise PluginError(f"{address(part)}: compute_losses must return a dict with 'loss', not {found}")
    for name, value in losses.items():
        what = f"{address(part)}: compute_losses returned '{name}'"
        if not re.fullmatch(r"[^,\"\n\r]+", str(name)):
            raise PluginError(f"{what}: a name in a table must not contain a comma, quotation mark or line break")
        shape, dtype = tuple(ops.shape(value)), keras.backend.standardize_dtype(value.dtype)
        if shape != (TRIED,):
            raise PluginError(f"{what} of shape {shape} for {TRIED} examples: it must be one number per example, (B,)")
        if dtype != "float32":
            raise PluginError(f"{what} of type {dtype}: losses must be float32, also under mixed precision")
        require_finite(value, part, f"compute_losses returned a '{name}'")
    return {name: ops.convert_to_numpy(value) for name, value in losses.items()}


def check_in_space(value: Any, space: Space, part: object, method: str) -> Any:
    """Returns the tensor, (2, *space.shape), if it is in `space`; raises PluginError otherwise."""
    what = f"{address(part)}: {method} returned"
    shape, dtype = tuple(ops.shape(value)), keras.backend.standardize_dtype(value.dtype)
    if shape != (TRIED, *space.shape):
        raise PluginError(f"{what} shape {shape}, but it must be {(TRIED, *space.shape)}: {TRIED} times {space}")
    if not dtype.startswith("int" if space.kind == "tokens" else ("float", "bfloat")):
        raise PluginError(f"{what} type {dtype}, but it must be {'int32' if space.kind == 'tokens' else 'float32'}")
    require_finite(value, part, f"{method} returned something")
    if space.vocabulary is not None:
        tokens = ops.convert_to_numpy(value)
        if tokens.min() < 0 or tokens.max() >= space.vocabulary:
            raise PluginError(
                f"{what} tokens {tokens.min()} to {tokens.max()}, but there are 0 to {space.vocabulary - 1}"
            )
    return value


def require_finite(value: Any, part: object, what: str) -> None:
    """Raises PluginError if a tensor is not finite."""
    if not np.isfinite(ops.convert_to_numpy(ops.cast(value, "float32"))).all():
        raise PluginError(f"{address(part)}: {what} that is not finite")


def check_numbers(numbers: Any, part: object, what: str) -> None:
    """Raises PluginError if something is not a mapping from names to numbers."""
    try:
        _ = {str(name): float(value) for name, value in numbers.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise PluginError(f"{address(part)}: {what} must return numbers by name, not {numbers!r}: {error}") from error
