"""Fields for numbers, and the queue of the clicks that use a model."""

from __future__ import annotations

from typing import Any

import gradio as gr

from kgen import ConfigError

MAX_SEED = 2**31 - 1

MODEL = "model"
"""The queue of all clicks that use a model, one at a time."""


def number_input(value: int, label: str, ident: str) -> gr.Number:
    """A field for a whole number from 1."""
    return gr.Number(value, label=label, precision=0, minimum=1, min_width=120, elem_id=ident, interactive=True)


def seed_input(ident: str) -> gr.Number:
    """The field for the seed of the noise."""
    return gr.Number(
        0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=120, elem_id=ident, interactive=True
    )


def whole(label: str, value: Any) -> int:
    """The value of a field for a whole number; raises ConfigError if it is empty."""
    if value is None:
        raise ConfigError(f"{label} must be a whole number")
    return int(value)
