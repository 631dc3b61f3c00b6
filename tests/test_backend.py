"""How Keras is loaded: quietly, and with the settings that kgen relies on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from PIL import Image

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


WATCHED = """
import contextlib, os, sys
from kgen.backend import selection
from kgen.cli import main

hidden = False

@contextlib.contextmanager
def hide():
    global hidden
    hidden = True
    yield

class Keras:
    def find_spec(self, name, *_):
        if name == "keras":
            os._exit(0 if hidden else 9)

selection._silent_stderr = hide
sys.meta_path.insert(0, Keras())
sys.argv[0] = "kgen"
main()
"""
"""A command of kgen that ends when Keras is imported, with status 9 if the output of native code is not hidden then."""

COMMANDS = (
    "generate RUN x",
    "run RUN",
    "run quickstart",
    "reconstruct RUN a.png",
    "upscale RUN a.png",
    "vary RUN a.png",
    "caption RUN a.png",
    "evaluate RUN",
    "compare RUN RUN",
    "sweep studies/guidance",
    "average RUN --std 0.1",
    "weights RUN",
    "check quickstart",
    "schema",
    "doctor",
    "data stats quickstart",
    "plugins list",
    "plugins show diffusion",
    "plugins new mine --kind metric",
    "models list",
    "embeddings RUN",
    "export RUN out",
    "import .",
    "studio RUN",
)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="only TensorFlow writes log lines when it is loaded"
)
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_hides_the_log_lines_of_tensorflow(command: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("name: run\n", encoding="utf-8")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    words = [sys.executable, "-c", WATCHED, *command.replace("RUN", "run").split()]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 2), done
