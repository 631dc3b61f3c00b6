"""Builds components by their names, and checks that the parts of a pipeline fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from kgen.backend.memory import weights_fit
from kgen.config.components import JOINT
from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.contracts.generator import Generator
from kgen.contracts.inputs import require_fields, training_inputs
from kgen.contracts.metric import Metric
from kgen.errors import ConfigError, SpaceError
from kgen.options import check_options, supplied
from kgen.plugins.discovery import component_id, registry
from kgen.plugins.faults import component_errors
from kgen.plugins.registry import Kind
from kgen.spaces import ConditionSpace, Space

Choice = str | Mapping[str, Any]
"""A component as a name ("text/bag", "bag"), or as a mapping with options: {"name": "bag", "dim": 64}."""

EncoderChoice = Choice | Sequence[Choice | Encoder]
"""One encoder, or a list of encoders that are joined."""


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
        inputs: The inputs from which it learns, such as captions; None: `adapt` is not called, unless the encoder is
            pretrained.
        dataset: The dataset from whose training examples it learns instead.

    Raises:
        ConfigError: a name or an option is unknown; or the encoder reads a field that the dataset does not have.
    """
    encoder = build_encoder(choice)
    if dataset is not None:
        adapt_encoder(encoder, dataset)
    elif inputs is not None or encoder.is_pretrained(encoder.config):
        with component_errors(encoder):
            encoder.adapt(inputs or [])
    return encoder


def adapt_encoder(encoder: Encoder, dataset: Dataset) -> None:
    """Calls `adapt` of an encoder with the training examples of a dataset.

    Raises:
        ConfigError: the encoder reads a field that the dataset does not have.
    """
    require_fields(encoder, dataset)
    with component_errors(encoder):
        encoder.adapt(training_inputs(dataset, encoder))


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
    joined, members = [], []
    for choice in choices:
        own = dict(choice) if isinstance(choice, Mapping) else {}
        rate = {"condition_dropout": own.pop("condition_dropout")} if "condition_dropout" in own else {}
        encoder = choice if isinstance(choice, Encoder) else build_encoder(own or choice, custom)
        joined.append(encoder)
        members.append({"name": component_id(encoder), **encoder.config, **rate})
    return joined, members


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


def make_decoder(
    choice: Choice, image_space: Space, condition_space: ConditionSpace, encoder: Encoder | None = None
) -> Decoder:
    """Builds a decoder by name, with new weights.

    Args:
        choice: The name, or a mapping with options.
        image_space: The space of the images that it encodes and decodes.
        condition_space: The space of the conditions, for decoders that read the text.
        encoder: The encoder of the pipeline, for decoders that share its weights.

    Raises:
        ConfigError: the name or an option is unknown; or the decoder cannot use the encoder.
        SpaceError: the decoder does not support such images.
    """
    wiring = {"image_space": image_space, "condition_space": condition_space, "encoder": encoder}
    return cast(Decoder, _make("decoder", choice, **wiring))


def make_generator(choice: Choice, space: Space, condition_space: ConditionSpace) -> Generator:
    """Builds a generator by name, with new weights.

    Args:
        choice: The name, or a mapping with options.
        space: The space of the latents that it models.
        condition_space: The space of the conditions.

    Raises:
        ConfigError: the name or an option is unknown.
        SpaceError: the generator cannot model such latents.
    """
    component, _ = find("generator", choice)
    _check_kind(component.load(), component.id, space, f"not {space}")
    return cast(Generator, _make("generator", choice, space=space, condition_space=condition_space))


def generator_for(choice: Choice, decoder: Decoder, encoder: Encoder) -> Generator:
    """Builds a generator for the decoder's latents. If it cannot model them, this fails before it is constructed."""
    component, _ = find("generator", choice)
    _check_latents(component.load(), component.id, decoder)
    return make_generator(choice, decoder.latent_space, encoder.condition_space)


def check_fit(encoder: Encoder, generator: Generator, decoder: Decoder) -> None:
    """Compares the spaces of neighboring parts.

    Raises:
        SpaceError: two spaces differ. The message names both parts and their spaces.
    """
    names = {part: type(part).__name__ for part in (encoder, generator, decoder)}
    _check_latents(type(generator), names[generator], decoder)
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


def _check_latents(generator: type[Generator], name: str, decoder: Decoder) -> None:
    space = decoder.latent_space
    other = f"but decoder '{component_id(decoder)}' makes {space}: choose another generator or decoder"
    _check_kind(generator, name, space, other)


def _check_kind(generator: type[Generator], name: str, space: Space, other: str) -> None:
    if space.kind not in generator.accepts:
        raise SpaceError(f"generator '{name}' models {' or '.join(generator.accepts)} latents, {other}")


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
        wiring: The spaces of neighboring parts, and the encoder. The constructor gets those that it takes.

    Raises:
        ConfigError: an option is wrong.
    """
    checked = check_options(cls, given, name)
    wiring = {key: space for key, space in wiring.items() if key in supplied(cls)}
    with component_errors(cls), weights_fit():  # a pretrained part has its weights from the beginning
        try:
            return cls(**wiring, **checked)
        except ValueError as error:  # a constructor may refuse options for reasons that its signature cannot express
            raise ConfigError(f"{kind} '{name}': {error}") from error
