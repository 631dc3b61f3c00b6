"""The parts that kgen can write as models of diffusers."""

from __future__ import annotations

from typing import Any

from kgen.pretrained import Section
from kgen_plugin_diffusers.autoencoder import PretrainedAutoencoder
from kgen_plugin_diffusers.exchange.model import Model, tensors_of
from kgen_plugin_diffusers.folder import WITHOUT_EFFECT
from kgen_plugin_diffusers.unet.options import MODEL, PARTS, UNetLayer


def from_published_autoencoder(part: Any) -> Model | None:
    """The decoders `autoencoder-kl` and `vq-model`, with the configuration of their folder."""
    if not isinstance(part, PretrainedAutoencoder):
        return None
    return Model(part.model_class, part.parts[0], _config(part.published), tensors_of(part.network))


def from_published_unet(part: Any) -> Model | None:
    """A generator whose network is `unet-2d-condition`, with the configuration of its folder."""
    layer = getattr(part, "model", None)
    if not isinstance(layer, UNetLayer) or layer.published is None:
        return None
    return Model(MODEL, PARTS[0], _config(layer.published), tensors_of(layer.network))


def _config(published: Section) -> dict[str, Any]:
    """The keys of a configuration that say something about the model."""
    return {key: value for key, value in published.data.items() if key not in ("_class_name", *WITHOUT_EFFECT)}
