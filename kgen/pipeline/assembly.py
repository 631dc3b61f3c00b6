"""Names or objects -> a pipeline whose parts fit together."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import Decoder, has_losses, learns_from_images
from kgen.contracts.encoder import Encoder
from kgen.contracts.generator import Generator
from kgen.errors import ConfigError
from kgen.parts.construction import (
    Choice,
    check_fit,
    find,
    make_dataset,
    make_decoder,
    make_encoder,
    make_generator,
)
from kgen.pipeline.model import Pipeline
from kgen.plugins.faults import component_errors
from kgen.spaces import Space


@component_errors()
def assemble(
    *,
    encoder: Choice | Encoder,
    generator: Choice | Generator,
    decoder: Choice | Decoder = "identity",
    dataset: Choice | Dataset | None = None,
    image_space: Space | Sequence[int] | None = None,
    captions: Sequence[str] | None = None,
    condition_dropout: float = 0.1,
) -> Pipeline:
    """Builds a pipeline from component names, from objects, or from a mixture.

    Args:
        encoder, generator, decoder: Names, mappings {"name": ..., options}, or objects (which no plugin needs to know).
        dataset: Gives `image_space` and the training captions, where those are not given.
        image_space: Of the images: (height, width, channels), or ``Space("continuous", (32, 32, 3))``.
        captions: What an encoder that is given by name learns its vocabulary from. An encoder object is taken as it is.
        condition_dropout: See `Pipeline`.

    Returns:
        A pipeline with all its weights.

    Raises:
        ConfigError: an unknown name or option. SpaceError: two neighbors do not fit.
    """
    if keras.config.image_data_format() != "channels_last":
        raise ConfigError("kgen needs channels last: call keras.config.set_image_data_format('channels_last') first")
    image_space = _as_space(image_space)
    if isinstance(captions, str):
        raise ConfigError("captions must be a list of texts, not one text")
    if dataset is not None:
        dataset = dataset if isinstance(dataset, Dataset) else make_dataset(dataset)
        image_space = image_space or dataset.image_space
        captions = dataset.captions("train") if captions is None else captions
    if not isinstance(encoder, Encoder):
        encoder = make_encoder(encoder, captions)
    if not isinstance(decoder, Decoder):
        if image_space is None:
            raise ConfigError("the size of the images is not known: give `dataset` or `image_space`")
        _check_ready(decoder)
        decoder = make_decoder(decoder, image_space, encoder.condition_space)
    if not isinstance(generator, Generator):
        generator = make_generator(generator, decoder, encoder)
    check_fit(encoder, generator, decoder)
    return Pipeline(encoder, generator, decoder, condition_dropout=condition_dropout)


def _as_space(given: Space | Sequence[int] | None) -> Space | None:
    if given is None or isinstance(given, Space):
        return given
    if isinstance(given, tuple | list) and len(given) == 3 and all(isinstance(n, int) and n > 0 for n in given):
        return Space("continuous", tuple(given))
    raise ConfigError(f"image_space must be (height, width, channels), such as (32, 32, 3), not {given!r}")


def _check_ready(choice: Choice) -> None:
    """Refuses a decoder that must be calibrated on images, as `assemble` has none to show it."""
    component, _ = find("decoder", choice)
    cls = component.load()
    if learns_from_images(cls) and not has_losses(cls):
        raise ConfigError(
            f"decoder '{component.id}' must be calibrated on images before it is used: build it by kgen.make_decoder, "
            "call its build(None) and calibrate(batches), and give the object; 'kgen run' does all this"
        )
