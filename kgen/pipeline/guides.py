"""Loads and checks the model that guides the sampling of another one, and passes it to the compiled program."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.backend.programs import Programs
from kgen.contracts.capabilities import Capability, GuideModel, option_of
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.contracts.generator import Generator
from kgen.errors import ConfigError, DataError, KgenError, RunError
from kgen.options import check_options
from kgen.parts.saving import Assembled, decoder_weights, restore
from kgen.parts.steps import checkpoint_of, load_step
from kgen.pipeline.prompts import check_prompts
from kgen.plugins.discovery import component_id
from kgen.spaces import Space
from kgen.storage.weights import find_weights

Tokens = dict[str, np.ndarray]

MAX_GUIDES = 2
"""Largest number of loaded guides that a pipeline keeps, so that the next call does not load them again."""


@dataclass(frozen=True, eq=False)
class LoadedGuide:
    """A pipeline that guides another one. The weights of the other pipeline do not include its weights.

    Args:
        pipeline: The pipeline.
        option: The name of the option of `generate` that takes it.
        name: The name in messages.
        key: Identifies the model and its weights.
    """

    pipeline: Assembled
    option: str
    name: str
    key: Hashable

    @property
    def layers(self) -> dict[str, keras.layers.Layer]:
        """The layers whose weights the program reads, by their names in messages."""
        return {"the guide's encoder": self.pipeline.encoder, "the guide's generator": self.pipeline.generator}

    def tokenize(self, inputs: Sequence[Any]) -> Tokens:
        """Tokenizes the inputs of the other pipeline's encoder with the encoder of this pipeline.

        Raises:
            ConfigError: this encoder cannot read them.
        """
        encoder = self.pipeline.encoder
        try:
            return encoder.tokenize(check_prompts(encoder, [_shared(encoder, value) for value in inputs]))
        except (ConfigError, DataError) as error:
            raise ConfigError(
                f"the guide {self.name} cannot read the prompt: {error}. Use a guide that was trained on such prompts"
            ) from error

    def check_space(self, space: Space) -> None:
        """Raises SpaceError if the guide does not support latents of this space."""
        if space != self.pipeline.generator.space:
            with _errors_of(self.name):
                self.pipeline.generator.check_space(space)

    def model(self, tokens: Any) -> GuideModel:
        """Makes the argument of `generate` from the tensors of `tokenize`."""
        return GuideModel(self.pipeline.generator, self.pipeline.encoder(tokens))


def validate_sampling(generator: Generator, given: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Validates options of a generator's `generate`, as `validate_options` does.

    Args:
        generator: The generator.
        given: The options. A guide may also be an object of the class `kind`, which is returned unchanged.
        kind: The class of pipelines.

    Returns:
        The options, converted to their types.

    Raises:
        ConfigError: an option is unknown or wrong.
    """
    owner, generate = type(generator).__name__, type(generator).generate
    guides = {name: value for name, value in given.items() if isinstance(value, kind)}
    if guides and list(guides) != [option_of(generate, Capability.GUIDE)]:
        raise ConfigError(f"{next(iter(guides))}: {owner}.generate takes no pipeline")
    rest = {name: value for name, value in given.items() if name not in guides}
    return {**check_options(generate, rest, f"{owner}.generate"), **guides}


def open_guide(
    pipeline: Assembled,
    options: Mapping[str, Any],
    kept: Programs,
    make: Callable[..., Assembled],
    staged_decoder: bool = False,
) -> LoadedGuide | None:
    """Opens the guide that options of `generate` name.

    Args:
        pipeline: The pipeline to guide.
        options: Its options of `generate`, validated; the guide may also be a pipeline.
        kept: The guides that were loaded last. Each is checked only once, because the check compares whole decoders.
        make: The class of pipelines.
        staged_decoder: Whether the decoder of the pipeline is not trained yet, so that its weights cannot be compared.

    Returns:
        The guide; None if there is none.

    Raises:
        RunError: there is no such run or checkpoint.
        ConfigError: the model cannot guide this one.
    """
    option = option_of(type(pipeline.generator).generate, Capability.GUIDE)
    given = None if option is None else options.get(option)
    if option is None or given is None:
        return None
    if not isinstance(given, Mapping):
        _check(pipeline, given, "pipeline", staged_decoder)
        return LoadedGuide(given, option, "pipeline", id(given))
    path, step = Path(given["from"]), given["step"]
    name = f"{path}" if step is None else f"{path} (step {step})"

    def checked() -> Assembled:
        guide = _load(make, path, step, name)
        _check(pipeline, guide, name, staged_decoder)
        return guide

    with _errors_of(name):
        key: Hashable = (str(path.resolve()), step, staged_decoder, *_state(path, step))
    return LoadedGuide(kept.get(key, checked), option, name, key)


@contextlib.contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Puts the name of a guide in front of the messages of errors."""
    try:
        yield
    except KgenError as error:
        raise type(error)(f"the guide {name}: {error}") from error


def _state(path: Path, step: int | None) -> tuple[int, int]:
    """The time and the size of the file of the weights, which change with the weights."""
    if not path.is_dir():
        raise RunError("there is no such folder: give a finished run, or a folder that kgen.save wrote")
    file = find_weights(path) if step is None else checkpoint_of(path, step)
    return file.stat().st_mtime_ns, file.stat().st_size


def _load(make: Callable[..., Assembled], path: Path, step: int | None, name: str) -> Assembled:
    with _errors_of(name):
        guide = restore(make, path)
        if step is not None:
            load_step(guide, path, step)
    return guide


def _check(pipeline: Assembled, guide: Assembled, name: str, staged_decoder: bool) -> None:
    """Raises ConfigError unless both generators model the same latents, and `guide` can guide `pipeline`."""
    for what, here, there in (
        ("images", pipeline.decoder.image_space, guide.decoder.image_space),
        ("latents", pipeline.generator.space, guide.generator.space),
    ):
        if here != there:
            raise ConfigError(
                f"the guide {name} cannot guide this model: its {what} are {there}, but those of this model are "
                f"{here}. Use a guide that was trained on the same data, with the same decoder"
            )
    if not _equal(pipeline.decoder, guide.decoder, staged_decoder):
        raise ConfigError(
            f"the guide {name} cannot guide this model: it has another decoder, so that its latents have another "
            "meaning. Train it with the decoder of this model: decoder: {from: RUN}"
        )
    try:
        pipeline.generator.check_guide(guide.generator)
    except ValueError as error:
        raise ConfigError(f"the guide {name} cannot guide this model: {error}") from error


def _equal(one: Decoder, other: Decoder, staged: bool) -> bool:
    """Whether two decoders have the same class and options, and, unless one is `staged`, the same weights."""
    if one is other:
        return True
    if (component_id(one), one.config) != (component_id(other), other.config):
        return False
    if staged:
        return True
    weights, others = decoder_weights(one), decoder_weights(other)
    return set(weights) == set(others) and all(
        np.array_equal(keras.ops.convert_to_numpy(weight), keras.ops.convert_to_numpy(others[path]))
        for path, weight in weights.items()
    )


def _shared(encoder: Encoder, value: Any) -> Any:
    """The fields of an input that an encoder reads.

    Raises:
        ConfigError: the input has none of them.
    """
    if not isinstance(value, Mapping):
        return value
    shared = {field: value[field] for field in encoder.fields if field in value}
    if not shared:
        raise ConfigError(f"it has {', '.join(value)}, but encoder '{component_id(encoder)}' reads {encoder.fields[0]}")
    return shared
