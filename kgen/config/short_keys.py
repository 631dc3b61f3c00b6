"""Keys of a run file that a user may write without their section: "guidance" for "sample.options.guidance"."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kgen.config.components import DEFAULTS
from kgen.config.overrides import Setting, apply_setting, read_overrides
from kgen.config.run_config import BARE, EvaluateConfig, RunConfig
from kgen.config.sections import FitConfig, SampleConfig, Section
from kgen.config.source import Source, read_file
from kgen.errors import KgenError
from kgen.options import options
from kgen.plugins.discovery import registry

SAMPLING = "sample.options"
"""The section of a run file with the options of the generator's `generate`."""

FREE: Mapping[str, type[Section]] = {"sample": SampleConfig, "evaluate": EvaluateConfig}
"""The sections whose keys a trained run may change."""

SECTIONS: Mapping[str, type[Section]] = {"fit": FitConfig, **FREE}
"""The sections whose keys may be written without the section in changes of a run file."""


def names_of_sampling(generator: type[Any]) -> list[str]:
    """The options of a generator's `generate`, with their names in earlier releases."""
    return [*options(generator.generate), *getattr(generator, "renamed", {})]


def is_full(key: str) -> bool:
    """Whether the first part of a key is a key of run files."""
    return key.partition(".")[0] in RunConfig.model_fields


def load_run_file(path: Path, overrides: Sequence[str]) -> RunConfig:
    """Reads and validates a run file as `RunConfig.load` does, but the keys of the overrides may be short.

    Raises:
        ConfigError: as in `RunConfig.load`; or a short key is unknown, or several keys end in it.
    """
    source = read_file(path)
    settings = read_overrides(source, overrides)
    if all(is_full(setting.key) for setting in settings):
        return RunConfig.load(path, overrides)
    sampling = _sampling_of(source, settings)
    if sampling is None:  # the validation of the run file reports it, and other missing parts with it
        return RunConfig.from_source(source, [setting for setting in settings if is_full(setting.key)], path.stem)
    in_full = list(with_full_keys(source, settings, sampling, SECTIONS))
    source.raise_problems()
    return RunConfig.from_source(source, in_full, path.stem)


def _sampling_of(source: Source, settings: Sequence[Setting]) -> list[str] | None:
    """The sampling options of the generator of a run file with changes; None if there is no such generator."""
    changed = Source(copy.deepcopy(source.data), source.origin)
    for setting in settings:
        if setting.key.partition(".")[0] == "generator":
            apply_setting(changed, setting, BARE)
    given = changed.data.get("generator", DEFAULTS["generator"])
    name = given.get("name") if isinstance(given, dict) else given
    try:
        return names_of_sampling(registry().find("generator", str(name)).load())
    except KgenError:
        return None


def with_full_keys(
    source: Source, settings: Sequence[Setting], sampling: Collection[str], sections: Mapping[str, type[Section]]
) -> Iterator[Setting]:
    """Yields settings with full keys. Reports keys that are unknown, or that several keys end in, to `source`.

    Args:
        source: The configuration, which receives the problems.
        settings: The settings.
        sampling: The sampling options of the generator.
        sections: The sections whose keys may be written without the section.
    """
    for setting in settings:
        found = [setting.key] if is_full(setting.key) else full_keys(setting.key, sampling, sections)
        if len(found) == 1:
            yield replace(setting, key=found[0])
        elif found:
            source.problems.append((setting.origin, f"{setting.key}: several keys end in it: {' or '.join(found)}"))
        else:
            source.problems.append((setting.origin, unknown(setting.key, sampling, sections)))


def full_keys(key: str, sampling: Collection[str], sections: Mapping[str, type[Section]] = FREE) -> list[str]:
    """The keys of the given sections that end in a key, in full.

    Args:
        key: The key, such as "guidance" or "network.width".
        sampling: The sampling options of the generator.
        sections: The sections.
    """
    first = key.partition(".")[0]
    found = [f"{section}.{key}" for section, fields in sections.items() if first in fields.model_fields]
    return found + ([f"{SAMPLING}.{key}"] if first in sampling else [])


def unknown(key: str, sampling: Collection[str], sections: Mapping[str, type[Section]] | None = None) -> str:
    """The message about a key that is neither full nor the end of a key that may be written alone.

    Args:
        key: The key.
        sampling: The sampling options of the generator.
        sections: The sections whose keys may be written alone, too.
    """
    sections = sections or {}
    fields, alone = list(RunConfig.model_fields), list(sampling)
    known = [*fields, *alone, *(name for section in sections.values() for name in section.model_fields)]
    near = difflib.get_close_matches(key.partition(".")[0], known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    takes = "; ".join(_takes(fields, alone, sections))
    return f"{key}: unknown key{hint} ({takes})"


def _takes(fields: Collection[str], sampling: Collection[str], sections: Mapping[str, type[Section]]) -> Iterator[str]:
    yield f"a run file takes: {', '.join(fields)}"
    for name, section in sections.items():
        yield f"its '{name}' takes: {', '.join(section.model_fields)}"
    yield f"its sampling takes: {', '.join(sampling) or 'nothing'}"
