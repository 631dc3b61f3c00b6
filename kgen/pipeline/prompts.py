"""Checks prompts, seeds, and numbers of images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kgen.backend.memory import total_memory
from kgen.config.source import parse_value
from kgen.contracts.capabilities import NO_GUIDANCE, Capability, guides, value_of
from kgen.contracts.encoder import Encoder
from kgen.contracts.generator import Generator
from kgen.contracts.inputs import as_input, distinct, input_key
from kgen.data.batches import CALL
from kgen.errors import ConfigError, DataError, GuidanceWarning, UnreadTextWarning
from kgen.random import MAX_SEED, NoiseSpec
from kgen.spaces import Space


def check_prompts(encoder: Encoder, prompts: Any) -> list[Any]:
    """Returns a list of the encoder's inputs.

    Args:
        prompts: One prompt, or a list, a tuple or an array of texts.

    Raises:
        ConfigError: the encoder cannot read a prompt.
    """
    several = isinstance(prompts, Sequence) and not isinstance(prompts, str | bytes)
    several |= isinstance(prompts, np.ndarray) and prompts.dtype.kind in "UO"
    return [_checked(encoder, prompt) for prompt in (prompts if several else [prompts])]


def _checked(encoder: Encoder, prompt: Any) -> Any:
    found = as_input(encoder, prompt)
    key = input_key(found)
    if encoder.fields == ("caption",) and not isinstance(found, str):
        raise ConfigError(f"a prompt is a text, not {type(prompt).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in key):
        raise ConfigError(f"the prompt {found!r} is not UTF-8 text: it contains half of a surrogate pair")
    return found


def inputs_beside(encoder: Encoder, images: np.ndarray, captions: Sequence[Any] | None) -> list[Any]:
    """The encoder's inputs for N images (N, H, W, C), from the captions of `Pipeline.inputs`.

    Raises:
        DataError: their number differs, or they are missing although the encoder reads more than the images.
        ConfigError: the encoder cannot read a caption.
    """
    others = [field for field in encoder.fields if field != "image"]
    if captions is None and others:
        raise DataError(f"images need their captions, or whatever the encoder reads ({', '.join(others)}): {CALL}")
    beside: Sequence[Any] = list(images) if captions is None else captions
    if isinstance(beside, str) or len(images) != len(beside):
        count = "one text for all" if isinstance(beside, str) else f"{len(beside)} captions"
        raise DataError(f"{len(images)} images, but {count}")
    if others == ["caption"] and not all(isinstance(caption, str | Mapping) for caption in beside):
        raise DataError(f"the captions must be texts, one per image: {CALL}")
    if not others or "image" not in encoder.fields:
        return [_checked(encoder, value) for value in beside]
    if len(others) == 1:
        beside = [value if isinstance(value, Mapping) else {others[0]: value} for value in beside]
    return [_checked(encoder, {"image": i, **value}) for i, value in zip(images, beside, strict=True)]


def parse_prompts(encoder: Encoder, written: Sequence[Any]) -> list[Any]:
    """Turns the prompts of a command line or a run file into the encoder's inputs.

    Args:
        written: Texts or numbers, or mappings of fields to texts or numbers. If the encoder reads several fields, a
            text is a mapping in YAML: "{caption: a red heart, label: circle}".

    Raises:
        ConfigError, DataError: the encoder cannot read a prompt.
    """
    return [_parsed(encoder, prompt) for prompt in written]


def _parsed(encoder: Encoder, prompt: Any) -> Any:
    if isinstance(prompt, str) and prompt and len(encoder.fields) > 1:
        prompt = parse_value(prompt)
    if not isinstance(prompt, Mapping):
        if prompt == "" or len(encoder.fields) > 1:
            return as_input(encoder, encoder.null if prompt == "" else prompt)
        prompt = {encoder.fields[0]: prompt}
    as_input(encoder, prompt)  # refuses a field that is not read
    return as_input(encoder, {field: encoder.parse(str(text), field) for field, text in prompt.items()})


def check_guidance(
    generator: Generator,
    encoder: Encoder,
    condition_dropout: float,
    options: Mapping[str, Any],
    negative_prompt: Any = None,
) -> None:
    """Checks the guidance of a call.

    Args:
        encoder, condition_dropout: Those of the pipeline; they determine whether training showed the null condition.
        options: The options of the generator's `generate`.

    Raises:
        ConfigError: there is a negative prompt without guidance.

    Warns:
        GuidanceWarning: there is guidance, but the training did not show the null condition.
    """
    generate = type(generator).generate
    guided = guides(generate, options)
    if negative_prompt is not None and not guided:
        raise ConfigError(
            f"negative_prompt has an effect only with guidance: give a guidance other than {NO_GUIDANCE:g}, too"
        )
    if guided and not condition_dropout and not encoder.shows_null:
        weight = value_of(generate, Capability.GUIDANCE, options)
        warnings.warn(
            f"guidance {weight:g} compares with the empty text, but this pipeline was made with "
            "condition_dropout 0, so that training never used it: generate with guidance 1, or train it again",
            GuidanceWarning,
            stacklevel=3,
        )


def warn_of_unread(encoder: Encoder, prompts: Sequence[Any]) -> None:
    """Warns the caller's caller of each prompt that the encoder does not read completely."""
    for index in distinct(prompts).values():
        if unread := encoder.unread(prompts[index]):
            warnings.warn(f"prompt '{shown(prompts[index])[:80]}': {unread}", UnreadTextWarning, stacklevel=3)


def shown(prompt: Any) -> str:
    """A prompt as a text for messages."""
    if isinstance(prompt, Mapping):
        return ", ".join(f"{field}: {shown(value)}" for field, value in prompt.items())
    if isinstance(prompt, np.ndarray):
        return f"{'x'.join(map(str, prompt.shape))} numbers"
    return str(prompt)


def check_seeds(seed: Any, prompts: int) -> list[int]:
    """Returns one seed per prompt; raises ConfigError for an invalid seed, or a wrong number of seeds."""
    several = isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str)
    seeds = list(seed) if several else [seed] * prompts
    for given in seeds if several else [seed]:
        whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
        if not whole or not 0 <= given <= MAX_SEED:
            raise ConfigError(f"a seed is a whole number from 0 to {MAX_SEED}, not {given!r}")
    if len(seeds) != prompts:
        raise ConfigError(f"{len(seeds)} seeds, but {prompts} prompts: give one seed, or one per prompt")
    return [int(given) for given in seeds]


def check_first(first: Any, prompts: int) -> int | list[int]:
    """Returns the number of the first image, or one number per prompt; raises ConfigError for anything else."""
    if not isinstance(first, Sequence | np.ndarray):
        return check_number("first", first, least=0)
    if len(first) != prompts:
        raise ConfigError(f"{len(first)} numbers as first, but {prompts} prompts: give one, or one per prompt")
    return [check_number("first", number, least=0) for number in first]


def check_number(name: str, value: Any, least: int = 1) -> int:
    """Returns an integer; raises ConfigError for another type, or for a number below `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number, {least} or more, not {value!r}")
    return int(value)


def check_memory(count: int, image_space: Space, specs: Iterable[NoiseSpec]) -> None:
    """Refuses more images than fit into memory, before any memory is allocated.

    Raises:
        ConfigError: the images do not fit. The message gives the needed and the available memory.
    """
    numbers = 2.5 * image_space.size + 2 * sum(math.prod(spec.shape) for spec in specs)  # of 4 bytes, with copies
    needed, room = 4 * numbers * count, total_memory()
    if needed > room:
        raise ConfigError(
            f"{count:,} images of {image_space} need {needed / 2**30:,.1f} GiB of memory at once, but there are "
            f"{room / 2**30:,.1f} GiB: generate fewer at a time, with other seeds"
        )


def check_output(output: str, decoder_options: Mapping[str, Any] | None) -> bool:
    """Whether `output` is "latents". Raises ConfigError for another word, or if latents have options of a decoder."""
    if output not in ("images", "latents"):
        raise ConfigError(f"output must be 'images' or 'latents', not {output!r}")
    if output == "latents" and decoder_options:
        raise ConfigError("output='latents' decodes nothing: leave the options of the decoder out")
    return output == "latents"
