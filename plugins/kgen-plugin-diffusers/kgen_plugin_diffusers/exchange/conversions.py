"""The parts that kgen can write as models of diffusers."""

from __future__ import annotations

from typing import Any

from kgen_plugin_diffusers.autoencoder import PretrainedAutoencoder
from kgen_plugin_diffusers.exchange.model import Model, tensors_of
from kgen_plugin_diffusers.folder import WITHOUT_EFFECT


def from_published_autoencoder(part: Any) -> Model | None:
    """The decoders `autoencoder-kl` and `vq-model`, with the configuration of their folder."""
    if not isinstance(part, PretrainedAutoencoder):
        return None
    skipped = {"_class_name", *WITHOUT_EFFECT}
    config = {key: value for key, value in part.published.data.items() if key not in skipped}
    return Model(part.model_class, part.parts[0], config, tensors_of(part.network))
