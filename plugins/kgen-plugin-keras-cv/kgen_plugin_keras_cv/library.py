"""Imports keras-cv, and makes its models without the weights that it would download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import keras

from kgen import PluginError

INSTALL = "pip install keras-cv==0.9.0 tensorflow"

Number = Literal[1, 2]
"""The version of Stable Diffusion."""


@dataclass(frozen=True)
class Version:
    """The models of a version of Stable Diffusion.

    Args:
        text_encoder: The name of the text encoder's class.
        heads: Number of its attention heads.
        activation: The name of its activation in the package `transformers`.
        diffusion_model: The name of the diffusion model's class.
        linear: Whether its transformers are between dense layers, and not between 1x1 convolutions.
    """

    text_encoder: str
    heads: int
    activation: str
    diffusion_model: str
    linear: bool


VERSIONS: dict[int, Version] = {
    1: Version("TextEncoder", 12, "quick_gelu", "DiffusionModel", linear=False),
    2: Version("TextEncoderV2", 16, "gelu", "DiffusionModelV2", linear=True),
}


def keras_cv_class(name: str) -> Any:
    """A class of keras-cv's Stable Diffusion, from a private module, because not all of them are public.

    Raises:
        PluginError: keras-cv, or TensorFlow, is not installed.
    """
    try:
        from keras_cv.src.models.stable_diffusion import stable_diffusion
    except (ImportError, ValueError) as error:  # keras-cv raises ValueError if TensorFlow is missing
        raise PluginError(
            f"keras-cv cannot be imported: {error}. It also needs TensorFlow, which it imports on every backend of "
            f"Keras: {INSTALL}"
        ) from error
    return getattr(stable_diffusion, name)


def new_model(name: str, policy: Any, *arguments: int) -> keras.Model:
    """Makes a model with random weights.

    Args:
        name: The name of its class.
        policy: The dtype policy. Layers of keras-cv take that of Keras, which is set while the model is made.
        arguments: The positional arguments of the class.
    """
    cls, current = keras_cv_class(name), keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return cls(*arguments, download_weights=False)
    finally:
        keras.config.set_dtype_policy(current)
