"""Numbers on the page, and the queue of the clicks that use a model."""

from __future__ import annotations

from typing import Any

import gradio as gr

from kgen import ConfigError

MAX_SEED = 2**31 - 1

MODEL = "model"
"""The queue of all clicks that use a model, one at a time."""


def seed_input() -> gr.Number:
    """The field for the seed of the noise."""
    return gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=120)


def whole(label: str, value: Any) -> int:
    """The value of a field for a whole number; raises ConfigError if it is empty."""
    if value is None:
        raise ConfigError(f"{label} must be a whole number")
    return int(value)
