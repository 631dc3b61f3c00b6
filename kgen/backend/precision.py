"""The precision in which layers compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Sets the dtype policy, such as "mixed_bfloat16", of all layers that are constructed in the block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
