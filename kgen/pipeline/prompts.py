"""Checks prompts, seeds, and numbers of images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kgen.backend.memory import total_memory
from kgen.errors import ConfigError
from kgen.random import MAX_SEED, NoiseSpec
from kgen.spaces import Space


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """Returns the prompts as a list; raises ConfigError if one is not a text."""
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ConfigError(f"a prompt is a text, not {type(prompt).__name__}")
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ConfigError(f"the prompt {prompt!r} is not UTF-8 text: it contains half of a surrogate pair")
    return list(prompts)


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
