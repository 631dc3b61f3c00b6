"""Loads Keras without the log lines of TensorFlow's C++ code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

LEVEL = "3"
"""The value of TF_CPP_MIN_LOG_LEVEL that turns messages off. TensorFlow still prints some while it is loaded."""


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Discards the output of native code to stderr during the first import of Keras. Exceptions pass unchanged.

    It does nothing if Keras or TensorFlow has been imported, if another backend is selected, or if TF_CPP_MIN_LOG_LEVEL
    enables messages.
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
