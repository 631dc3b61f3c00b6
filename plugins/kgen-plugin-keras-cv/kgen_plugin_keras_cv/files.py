"""The files of trained weights: files of keras-cv, or folders of the library diffusers."""

from __future__ import annotations

from pathlib import Path

import keras

from kgen import ConfigError

H5 = ".h5"


def check_options(pretrained: str | None, variant: str | None) -> None:
    """Raises ValueError for a variant that would be ignored, because only folders have variants."""
    if variant is not None and (pretrained is None or is_file(pretrained)):
        raise ValueError("variant is an option for the weights in a folder, and has no effect here: leave it out")


def is_file(pretrained: str) -> bool:
    """Whether trained weights are a file of keras-cv, and not a folder of diffusers."""
    return pretrained.endswith(H5)


def load_file(model: keras.Model, path: str) -> None:
    """Loads the weights of a model of keras-cv: a ``.weights.h5`` file of Keras 3, or a ``.h5`` file of Keras 2.

    Raises:
        ConfigError: the file is missing or damaged, or has the weights of another model.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file; download it first")
    try:
        model.load_weights(str(file))
    except Exception as error:  # h5py and Keras raise many kinds of errors
        raise ConfigError(
            f"{file} cannot be read as the weights of keras-cv's {type(model).__name__}: {error}"
        ) from error
