"""The parts that kgen can write as models of diffusers."""

from __future__ import annotations

from typing import Any

from kgen import ConfigError
from kgen.options import part as option
from kgen.pretrained import Section
from kgen_plugin_diffusers.autoencoder import PretrainedAutoencoder
from kgen_plugin_diffusers.exchange.model import Model, tensors_of
from kgen_plugin_diffusers.folder import WITHOUT_EFFECT
from kgen_plugin_diffusers.published import PublishedNetwork


def from_published_autoencoder(part: Any) -> Model | None:
    """The decoders `autoencoder-kl` and `vq-model`, with the configuration of their folder."""
    if not isinstance(part, PretrainedAutoencoder):
        return None
    return Model(part.model_class, part.parts[0], _config(part.published), tensors_of(part.network))


def from_published_network(part: Any) -> Model | None:
    """A generator whose network was published in a folder, with the configuration of the folder."""
    layer = getattr(part, "model", None)
    if not isinstance(layer, PublishedNetwork) or layer.published is None:
        return None
    cls = layer.published.data["_class_name"]
    return Model(cls, layer.parts[0], _config(layer.published), tensors_of(layer.network))


def from_dit(part: Any) -> Model | None:
    """The network `dit` of kgen-plugin-diffusion, which no class of diffusers can hold.

    Raises:
        ConfigError: it is such a network. The message says why.
    """
    if not isinstance(getattr(part, "network", None), type(option("diffusion.network", "diffusion/dit"))):
        return None
    raise ConfigError(
        "no class of diffusers computes the same as the network 'dit': DiTTransformer2DModel has no attention to the "
        "text; PixArtTransformer2DModel does not normalize the input of that attention, and its blocks share one "
        "modulation, which reads the time and not the text. Train the network 'unet' instead, or "
        "'diffusers/dit-transformer-2d' or 'diffusers/pixart-transformer-2d' further"
    )


def _config(published: Section) -> dict[str, Any]:
    """The keys of a configuration that say something about the model."""
    return {key: value for key, value in published.data.items() if key not in ("_class_name", *WITHOUT_EFFECT)}
