"""Loads Keras without the lines that TensorFlow's C++ prints while it is loaded."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

LEVEL = "3"
"""The value of TF_CPP_MIN_LOG_LEVEL for no messages; TensorFlow still prints some while it is loaded."""


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Around the first import of Keras: what native code writes to stderr goes nowhere. Exceptions are not touched.

    Does nothing where Keras or TensorFlow is there already, where another backend is chosen, or where
    TF_CPP_MIN_LOG_LEVEL asks for messages.
    """
    loaded = {"keras", "tensorflow"} & set(sys.modules)
    chosen = os.environ.get("KERAS_BACKEND", "tensorflow")
    if not loaded and chosen == "tensorflow" and os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", LEVEL) == LEVEL:
        with _silent_stderr():
            yield
    else:
        yield


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
