"""Chooses Keras's backend, and loads it quietly: before anything imports Keras."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kgen.errors import ConfigError, PluginError

BACKENDS = ("tensorflow", "jax", "torch")

QUIET = "3"
"""TensorFlow's word for no messages; it prints some all the same while it is loaded."""


def load_backend() -> str:
    """Selects a backend and imports Keras with it, without what TensorFlow's C++ prints on loading."""
    name = select_backend()
    if name == "tensorflow" and os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", QUIET) == QUIET:
        with _silent_stderr():
            import keras
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it calls several models in one process an accident
    else:
        import keras
    logging.getLogger("absl").setLevel(logging.ERROR)  # grain, for one, warns where jax is not installed
    return str(keras.backend.backend())


def select_backend() -> str:
    """Sets KERAS_BACKEND: as the environment says, else as ~/.keras/keras.json does, else the first one installed.

    Keras writes keras.json by itself, so what that names counts only if it is installed.

    Raises:
        ConfigError: the environment asks for what kgen cannot use. PluginError: no backend is installed.
    """
    asked = os.environ.get("KERAS_BACKEND")
    if asked and asked not in BACKENDS:
        raise ConfigError(f"KERAS_BACKEND={asked}: kgen runs on {', '.join(BACKENDS)}")
    if asked and not _installed(asked):
        raise PluginError(f'KERAS_BACKEND={asked}, but {asked} is not installed: pip install "kgen[{asked}]"')
    candidates = [asked, _configured(), *BACKENDS]
    chosen = next((name for name in candidates if name in BACKENDS and _installed(name)), None)
    if chosen is None:
        raise PluginError(
            f'Keras needs one of {", ".join(BACKENDS)}, and none is installed: pip install "kgen[tensorflow]"'
        )
    os.environ["KERAS_BACKEND"] = chosen
    return chosen


def _configured() -> str | None:
    home = os.environ.get("KERAS_HOME")
    file = (Path(home) if home else Path.home() / ".keras") / "keras.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("backend") if isinstance(found, dict) else None


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Sends what native code writes to stderr nowhere; Python's exceptions are not touched."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
