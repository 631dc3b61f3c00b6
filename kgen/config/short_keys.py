"""Keys of a run file that a user may write alone: "guidance" for "sample.options.guidance"."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kgen.config.run_config import EvaluateConfig, RunConfig
from kgen.config.sections import SampleConfig, Section
from kgen.options import options

SAMPLING = "sample.options"
"""The section of a run file with the options of the generator's `generate`."""

FREE: Mapping[str, type[Section]] = {"sample": SampleConfig, "evaluate": EvaluateConfig}
"""The sections whose keys a trained run may change."""


def names_of_sampling(generator: type[Any]) -> list[str]:
    """The options of a generator's `generate`, with their names in earlier releases."""
    return [*options(generator.generate), *getattr(generator, "renamed", {})]


def is_full(key: str) -> bool:
    """Whether the first part of a key is a key of run files."""
    return key.partition(".")[0] in RunConfig.model_fields


def full_keys(key: str, sampling: Collection[str]) -> list[str]:
    """The keys of the sections `sample` and `evaluate` that end in a key, in full.

    Args:
        key: The key, such as "guidance" or "network.width".
        sampling: The sampling options of the generator.
    """
    first = key.partition(".")[0]
    found = [f"{section}.{key}" for section, fields in FREE.items() if first in fields.model_fields]
    return found + ([f"{SAMPLING}.{key}"] if first in sampling else [])


def unknown(key: str, sampling: Collection[str], sections: Collection[str] = ()) -> str:
    """The message about a key that is neither full nor the end of a key that may be written alone.

    Args:
        key: The key.
        sampling: The sampling options of the generator.
        sections: The sections whose keys may be written alone, too, such as "evaluate".
    """
    fields, alone = list(RunConfig.model_fields), list(sampling)
    known = [*fields, *alone, *(name for section in sections for name in FREE[section].model_fields)]
    near = difflib.get_close_matches(key.partition(".")[0], known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    takes = "; ".join(_takes(fields, alone, sections))
    return f"{key}: unknown key{hint} ({takes})"


def _takes(fields: Collection[str], sampling: Collection[str], sections: Collection[str]) -> Iterator[str]:
    yield f"a run file takes: {', '.join(fields)}"
    for section in sections:
        yield f"its '{section}' takes: {', '.join(FREE[section].model_fields)}"
    yield f"its sampling takes: {', '.join(sampling) or 'nothing'}"
