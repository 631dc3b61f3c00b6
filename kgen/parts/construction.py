"""Builds components by their names, and checks that the parts of a pipeline fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from kgen.backend.memory import weights_fit
from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.contracts.generator import Generator
from kgen.contracts.metric import Metric
from kgen.errors import ConfigError, SpaceError
from kgen.options import check_options, supplied
from kgen.plugins.discovery import registry
from kgen.plugins.faults import component_errors
from kgen.plugins.registry import Kind
from kgen.spaces import ConditionSpace, Space

Choice = str | Mapping[str, Any]
"""A component as a name ("text/bag", "bag"), or as a mapping with options: {"name": "bag", "dim": 64}."""


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


def make_encoder(choice: Choice, captions: Sequence[str] | None) -> Encoder:
    """Builds an encoder, and lets it learn from the captions if there are any."""
    encoder = cast(Encoder, _make("encoder", choice))
    if captions is not None:
        with component_errors(encoder):
            encoder.adapt(captions)
    return encoder


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


def component_id(part: object) -> str:
    """The full id under which an object's class is registered, or its import path."""
    cls = type(part)
    component = registry().of_class(cls)
    return f"{cls.__module__}:{cls.__qualname__}" if component is None else component.id


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
