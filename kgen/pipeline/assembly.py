"""Builds a pipeline from the names of components or from objects, and checks that the parts fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kgen.backend.variables import kept_variables
from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import Decoder, has_losses, learns_from_images
from kgen.contracts.encoder import Encoder
from kgen.contracts.generator import Generator
from kgen.contracts.inputs import require_fields
from kgen.errors import ConfigError
from kgen.parts.construction import (
    Choice,
    EncoderChoice,
    check_fit,
    find,
    generator_for,
    make_dataset,
    make_decoder,
    make_encoder,
)
from kgen.pipeline.model import Pipeline
from kgen.plugins.faults import component_errors
from kgen.spaces import Space


@component_errors()
def assemble(
    *,
    encoder: EncoderChoice | Encoder,
    generator: Choice | Generator,
    decoder: Choice | Decoder = "identity",
    dataset: Choice | Dataset | None = None,
    image_space: Space | Sequence[int] | None = None,
    captions: Sequence[Any] | None = None,
    condition_dropout: float = 0.1,
) -> Pipeline:
    """Builds a pipeline from names of components, from objects, or from both.

    Args:
        encoder, generator, decoder: Names, mappings {"name": ..., options}, or objects, which need not be registered.
            A list of encoders is joined in length: ["text/bag", {"name": "text/label", "condition_dropout": 0.1}]; see
            `kgen.Joint`.
        dataset: The source of `image_space`, and of the training captions or whatever else the encoder reads, if these
            are not given.
        image_space: The space of the images: (height, width, channels), or ``Space("continuous", (32, 32, 3))``.
        captions: Texts from which an encoder given by name learns its vocabulary; or values of another field that it
            reads, such as labels. An encoder object is used as it is.
        condition_dropout: See `Pipeline`.

    Returns:
        A pipeline with all its weights.

    Raises:
        ConfigError: a name or an option is unknown; or the encoder reads a field that the dataset does not have.
        SpaceError: two neighboring parts do not fit together.
    """
    if keras.config.image_data_format() != "channels_last":
        raise ConfigError("kgen needs channels last: call keras.config.set_image_data_format('channels_last') first")
    image_space = _as_space(image_space)
    if isinstance(captions, str):
        raise ConfigError("captions must be a list of texts, not one text")
    if dataset is not None:
        dataset = dataset if isinstance(dataset, Dataset) else make_dataset(dataset)
        image_space = image_space or dataset.image_space
    if not isinstance(encoder, Encoder):
        encoder = make_encoder(encoder, captions, dataset if captions is None else None)
    if dataset is not None:
        require_fields(encoder, dataset)
    if not isinstance(decoder, Decoder):
        if image_space is None:
            raise ConfigError("the size of the images is not known: give `dataset` or `image_space`")
        _check_ready(decoder)
        decoder = make_decoder(decoder, image_space, encoder.condition_space, encoder)
    if not isinstance(generator, Generator):
        generator = generator_for(generator, decoder, encoder)
    check_fit(encoder, generator, decoder)
    return Pipeline(encoder, generator, decoder, condition_dropout=condition_dropout)


def with_decoder(pipeline: Pipeline, decoder: Decoder) -> Pipeline:
    """Makes a pipeline with another decoder, but the same encoder, generator and state of random numbers.

    Raises:
        SpaceError: the generator does not generate latents for this decoder.
    """
    encoder, generator = pipeline.encoder, pipeline.generator
    check_fit(encoder, generator, decoder)
    states = [v for v in pipeline.training_variables if v.name == "seed_generator_state"]
    with kept_variables(states):  # building calls the parts
        made = Pipeline(encoder, generator, decoder, condition_dropout=pipeline.condition_dropout)
    made.seed_generator.state.assign(pipeline.seed_generator.state)
    return made


def _as_space(given: Space | Sequence[int] | None) -> Space | None:
    if given is None or isinstance(given, Space):
        return given
    if isinstance(given, tuple | list) and len(given) == 3 and all(isinstance(n, int) and n > 0 for n in given):
        return Space("continuous", tuple(given))
    raise ConfigError(f"image_space must be (height, width, channels), such as (32, 32, 3), not {given!r}")


def _check_ready(choice: Choice) -> None:
    """Refuses a decoder that must be calibrated on images, because `assemble` has no images."""
    component, _ = find("decoder", choice)
    cls = component.load()
    if learns_from_images(cls) and not has_losses(cls):
        raise ConfigError(
            f"decoder '{component.id}' must be calibrated on images before it is used: build it by kgen.make_decoder, "
            "call its build(None) and calibrate(batches), and give the object; 'kgen run' does all this"
        )
