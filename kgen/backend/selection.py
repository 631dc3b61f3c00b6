"""Chooses Keras's backend and loads it without log lines, before anything imports Keras."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from kgen.errors import ConfigError, PluginError

BACKENDS = ("tensorflow", "jax", "torch")

LEVEL = "3"
"""The value of TF_CPP_MIN_LOG_LEVEL that turns messages off. TensorFlow still prints some while it is loaded."""


def load_backend() -> str:
    """Selects a backend, imports Keras without log lines, and sets what kgen relies on, whatever keras.json says.

    Raises:
        ConfigError: Keras refuses the settings of keras.json. PluginError: the backend cannot be imported.
    """
    name = select_backend()
    try:
        with quiet_tensorflow():
            import keras
    except ImportError as error:
        raise PluginError(f"Keras cannot be imported on {name}: {error}") from error
    except Exception as error:
        file = _settings()
        raise ConfigError(f"{file}: Keras cannot use these settings, fix or delete them: {error}") from error
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    if name == "tensorflow":
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of several models in one process
    logging.getLogger("absl").setLevel(logging.ERROR)  # grain, for example, warns if jax is not installed
    return str(keras.backend.backend())


def select_backend() -> str:
    """Sets KERAS_BACKEND to the environment's choice, else to that of ~/.keras/keras.json, else to an installed one.

    Call it before anything imports Keras, which would look for TensorFlow even where only PyTorch or JAX is installed.
    Keras writes keras.json by itself, so a backend named there is ignored if it is not installed.

    Returns:
        The name of the backend: "tensorflow", "jax" or "torch".

    Raises:
        ConfigError: the environment names a backend that kgen cannot use.
        PluginError: the named backend is not installed, or none is.
    """
    asked = os.environ.get("KERAS_BACKEND")
    if asked and asked not in BACKENDS:
        raise ConfigError(f"KERAS_BACKEND={asked}: kgen runs on {', '.join(BACKENDS)}")
    if asked and not installed(asked):
        raise PluginError(f'KERAS_BACKEND={asked}, but {asked} is not installed: pip install "kgen-core[{asked}]"')
    candidates = [asked, _configured(), *BACKENDS]
    chosen = next((name for name in candidates if name in BACKENDS and installed(name)), None)
    if chosen is None:
        raise PluginError(
            f'Keras needs one of {", ".join(BACKENDS)}, and none is installed: pip install "kgen-core[tensorflow]"'
        )
    os.environ["KERAS_BACKEND"] = chosen
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", LEVEL)  # also for a plugin that imports Keras itself
    return chosen


def _configured() -> str | None:
    try:
        found = json.loads(_settings().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("backend") if isinstance(found, dict) else None


def _settings() -> Path:
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "keras.json"


def installed(backend: str) -> bool:
    """Whether a backend is installed. It may still fail to import."""
    return importlib.util.find_spec(backend) is not None


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
