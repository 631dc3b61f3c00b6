"""How Keras is loaded: quietly, and with the settings that kgen relies on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from kgen import ConfigError, assemble
from kgen.backend.selection import load_backend, quiet_tensorflow


@pytest.fixture
def keras_settings():
    """Puts Keras's settings back."""
    yield keras.config
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_dtype_policy("float32")


def test_keras_json_does_not_change_settings_that_kgen_needs(keras_settings) -> None:
    keras_settings.set_image_data_format("channels_first")
    keras_settings.set_floatx("float64")
    keras_settings.set_epsilon(0.1)
    keras_settings.set_dtype_policy("float64")
    load_backend()
    assert keras_settings.image_data_format() == "channels_last"
    assert keras_settings.floatx() == keras_settings.dtype_policy().name == "float32"
    assert keras_settings.epsilon() == 1e-7


def test_from_python_channels_first_is_refused_and_not_changed(keras_settings) -> None:
    keras_settings.set_image_data_format("channels_first")
    with pytest.raises(ConfigError, match=r"keras\.config\.set_image_data_format\('channels_last'\)"):
        assemble(encoder="none", generator="diffusion/diffusion", dataset="shapes")
    assert keras_settings.image_data_format() == "channels_first"


@pytest.mark.parametrize("settings", ["[]", '{"floatx": "float8"}'])
def test_a_keras_json_that_keras_cannot_read_is_named(tmp_path: Path, settings: str) -> None:
    (tmp_path / "keras.json").write_text(settings, encoding="utf-8")
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "kgen.cli", "schema"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path}/keras.json: Keras cannot use these settings, fix or delete them")


def test_output_of_native_code_at_the_import_of_keras_is_hidden(monkeypatch, capfd) -> None:
    for name in ("keras", "tensorflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for backend, level, expected in (("tensorflow", "3", ""), ("tensorflow", "0", "native"), ("jax", "3", "native")):
        monkeypatch.setenv("KERAS_BACKEND", backend)
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
        with quiet_tensorflow():
            os.write(2, b"native")
        assert capfd.readouterr().err == expected
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    with pytest.raises(ZeroDivisionError), quiet_tensorflow():
        1 / 0  # noqa: B018
    os.write(2, b"seen again")
    assert capfd.readouterr().err == "seen again"
