"""Builds a pipeline from the names of components or from objects, and checks that the parts fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import keras

from kgen.backend.memory import weights_fit
from kgen.backend.variables import kept_variables
from kgen.config.components import JOINT
from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import Decoder, has_losses, learns_from_images
from kgen.contracts.encoder import Encoder
from kgen.contracts.generator import Generator
from kgen.contracts.inputs import require_fields, training_inputs
from kgen.contracts.metric import Metric
from kgen.errors import ConfigError, SpaceError
from kgen.options import check_options, supplied
from kgen.pipeline.pipeline import Pipeline
from kgen.plugins.discovery import component_id, registry
from kgen.plugins.faults import component_errors
from kgen.plugins.registry import Kind
from kgen.spaces import ConditionSpace, Space

Choice = str | Mapping[str, Any]
"""A component as a name ("text/bag", "bag"), or as a mapping with options: {"name": "bag", "dim": 64}."""

EncoderChoice = Choice | Sequence[Choice | Encoder]
"""One encoder, or a list of encoders that are joined."""


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
        decoder = make_decoder(decoder, image_space, encoder.condition_space)
    if not isinstance(generator, Generator):
        generator = make_generator(generator, decoder, encoder)
    check_fit(encoder, generator, decoder)
    return Pipeline(encoder, generator, decoder, condition_dropout=condition_dropout)


def with_decoder(pipeline: Pipeline, decoder: Decoder) -> Pipeline:
    """The encoder and the generator of a pipeline, and the state of its random numbers, with another decoder.

    Raises:
        SpaceError: the generator makes no latents of this decoder.
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


def make_dataset(choice: Choice) -> Dataset:
    """Opens a dataset by name: ``make_dataset({"name": "shapes", "size": 16})``.

    Raises:
        ConfigError: the name or an option is unknown.
        DataError: the data are missing or damaged.
    """
    return cast(Dataset, _make("dataset", choice))


def make_metric(choice: Choice) -> Metric:
    """Makes a metric by name. Raises ConfigError for an unknown name or option."""
    return cast(Metric, _make("metric", choice))


def make_encoder(choice: EncoderChoice, inputs: Sequence[Any] | None, dataset: Dataset | None = None) -> Encoder:
    """Builds an encoder, or several joined encoders, and calls `adapt`.

    Args:
        inputs: The inputs from which it learns, such as captions.
        dataset: The dataset from whose training examples it learns instead.

    Raises:
        ConfigError: a name or an option is unknown; or the encoder reads a field that the dataset does not have.
    """
    encoder = build_encoder(choice)
    if dataset is not None:
        require_fields(encoder, dataset)
        inputs = training_inputs(dataset, encoder)
    if inputs is not None:
        with component_errors(encoder):
            encoder.adapt(inputs)
    return encoder


def build_encoder(choice: EncoderChoice, custom: Mapping[str, type[Any]] | None = None) -> Encoder:
    """Builds an encoder, without calling `adapt`.

    Args:
        custom: Classes that no plugin registers, by their import paths.

    Raises:
        ConfigError: a name or an option is unknown.
    """
    given: Any = {"name": JOINT, "encoders": choice} if isinstance(choice, list | tuple) else choice
    if isinstance(given, Mapping) and (cls := unregistered("encoder", given.get("name"), custom or {})) is not None:
        options = {key: value for key, value in given.items() if key != "name"}
        return cast(Encoder, construct("encoder", str(given["name"]), cls, options, {}))
    component, options = find("encoder", given)
    if component.id != JOINT:
        return cast(Encoder, construct("encoder", component.id, component.load(), options, {}))
    joined, options["encoders"] = _members(options.get("encoders"), custom)
    return cast(Encoder, construct("encoder", JOINT, component.load(), options, {"joined": joined}))


def _members(choices: Any, custom: Mapping[str, type[Any]] | None) -> tuple[list[Encoder], list[dict[str, Any]]]:
    """The encoders to be joined, and the option `encoders` of `Joint`: the name, options and dropout of each."""
    if not isinstance(choices, list | tuple):
        raise ConfigError(f"encoder '{JOINT}': encoders must be a list of encoders")
    joined, told = [], []
    for choice in choices:
        own = dict(choice) if isinstance(choice, Mapping) else {}
        rate = {"condition_dropout": own.pop("condition_dropout")} if "condition_dropout" in own else {}
        encoder = choice if isinstance(choice, Encoder) else build_encoder(own or choice, custom)
        joined.append(encoder)
        told.append({"name": component_id(encoder), **encoder.config, **rate})
    return joined, told


def unregistered(kind: Kind, name: Any, custom: Mapping[str, type[Any]]) -> type[Any] | None:
    """The class of a component that was saved by its import path; None for a component of a plugin.

    Raises:
        ConfigError: `custom` does not contain the class.
    """
    if not isinstance(name, str) or ":" not in name:
        return None
    if name not in custom:
        raise ConfigError(
            f"{kind} {name} is in no plugin: pass its class, kgen.load(..., custom=[{name.split(':')[1]}])"
        )
    return custom[name]


def make_decoder(choice: Choice, image_space: Space, condition_space: ConditionSpace) -> Decoder:
    """Builds a decoder by name, with new weights.

    Args:
        choice: The name, or a mapping with options.
        image_space: The space of the images that it encodes and decodes.
        condition_space: The space of the conditions, for decoders that read the text.

    Raises:
        ConfigError: the name or an option is unknown.
        SpaceError: the decoder does not support such images.
    """
    return cast(Decoder, _make("decoder", choice, image_space=image_space, condition_space=condition_space))


def make_generator(choice: Choice, decoder: Decoder, encoder: Encoder) -> Generator:
    """Builds a generator for the decoder's latents. If it cannot model them, this fails before it is constructed."""
    component, _ = find("generator", choice)
    _check_kind(component.load(), component.id, decoder)
    made = _make("generator", choice, space=decoder.latent_space, condition_space=encoder.condition_space)
    return cast(Generator, made)


def check_fit(encoder: Encoder, generator: Generator, decoder: Decoder) -> None:
    """Compares the spaces of neighboring parts.

    Raises:
        SpaceError: two spaces differ. The message names both parts and their spaces.
    """
    names = {part: type(part).__name__ for part in (encoder, generator, decoder)}
    _check_kind(type(generator), names[generator], decoder)
    if generator.space != decoder.latent_space:
        raise SpaceError(
            f"generator {names[generator]} makes latents {generator.space}, but decoder {names[decoder]} reads "
            f"{decoder.latent_space}"
        )
    if generator.condition_space != encoder.condition_space:
        raise SpaceError(
            f"generator {names[generator]} reads conditions {generator.condition_space}, but encoder {names[encoder]} "
            f"makes {encoder.condition_space}"
        )


def _check_kind(generator: type[Generator], name: str, decoder: Decoder) -> None:
    space = decoder.latent_space
    if space.kind not in generator.accepts:
        raise SpaceError(
            f"generator '{name}' models {' or '.join(generator.accepts)} latents, but decoder "
            f"'{component_id(decoder)}' makes {space}: choose another generator or decoder"
        )


def _check_ready(choice: Choice) -> None:
    """Refuses a decoder that must be calibrated on images, because `assemble` has no images."""
    component, _ = find("decoder", choice)
    cls = component.load()
    if learns_from_images(cls) and not has_losses(cls):
        raise ConfigError(
            f"decoder '{component.id}' must be calibrated on images before it is used: build it by kgen.make_decoder, "
            "call its build(None) and calibrate(batches), and give the object; 'kgen run' does all this"
        )


def find(kind: Kind, choice: Choice) -> tuple[Any, dict[str, Any]]:
    """Looks up a choice. Returns the declaration of the component, and the options."""
    if not isinstance(choice, str | Mapping):
        what = f"the class {choice.__name__}" if isinstance(choice, type) else f"{type(choice).__name__} {choice!r}"
        raise ConfigError(
            f"{kind}: give the name of one, a mapping with its 'name' and options, or an object of kgen.{kind.title()}"
            f", not {what:.80}"
        )
    given = {"name": choice} if isinstance(choice, str) else {str(key): value for key, value in choice.items()}
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{kind}: 'name' is missing in {dict(given)}")
    return registry().find(kind, name), given


def _make(kind: Kind, choice: Choice, **wiring: Any) -> object:
    component, given = find(kind, choice)
    return construct(kind, component.id, component.load(), given, wiring)


def construct(kind: Kind, name: str, cls: type[Any], given: Mapping[str, Any], wiring: Mapping[str, Any]) -> Any:
    """Constructs a component.

    Args:
        kind: The kind of the component, for messages.
        name: The name of the component, for messages.
        cls: The class.
        given: Options that are not yet validated.
        wiring: The spaces of neighboring parts. The constructor gets those that it takes.

    Raises:
        ConfigError: an option is wrong.
    """
    checked = check_options(cls, given, name)
    wiring = {key: space for key, space in wiring.items() if key in supplied(cls)}
    with component_errors(cls), weights_fit():  # a pretrained part has its weights from the beginning
        try:
            return cls(**wiring, **checked)
        except ValueError as error:  # by the contract: what the signature cannot say of the options
            raise ConfigError(f"{kind} '{name}': {error}") from error
