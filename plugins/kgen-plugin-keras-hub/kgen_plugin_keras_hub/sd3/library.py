"""KerasHub's classes of Stable Diffusion 3, most of which are not public."""

from __future__ import annotations

import importlib
from typing import Any

from kgen import PluginError

MODULES = {
    "MMDiT": "stable_diffusion_3.mmdit",
    "CLIPProjection": "stable_diffusion_3.stable_diffusion_3_backbone",
    "T5Encoder": "stable_diffusion_3.t5_encoder",
    "VAEEncoder": "vae.vae_layers",
    "VAEDecoder": "vae.vae_layers",
}
"""The module of each private class."""

TESTED = "keras-hub==0.32.*"
"""The version whose private classes the tests of this plugin use."""


def hub_class(name: str) -> Any:
    """A private class of KerasHub.

    Raises:
        PluginError: the installed version has no such class.
    """
    try:
        return getattr(importlib.import_module(f"keras_hub.src.models.{MODULES[name]}"), name)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"the installed KerasHub has no {name} of Stable Diffusion 3 where {TESTED} has it: {error}. Install that "
            f"version: pip install '{TESTED}'"
        ) from error


def t5_encoder_class() -> Any:
    """KerasHub's T5 encoder, as a backbone: on PyTorch, only backbones may make layers before Keras's constructor."""
    import keras_hub

    return type("T5Encoder", (hub_class("T5Encoder"), keras_hub.models.Backbone), {})
