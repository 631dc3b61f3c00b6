"""Selects weights by patterns of their paths, such as `generator/model/up/*`."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from kgen.errors import ConfigError

ALL = ("*",)


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path, or the path of a layer that contains it, matches one of the patterns.

    In a pattern, `*` stands for any characters, including slashes, and `?` for one character. A pattern that matches
    the path of a layer, such as `generator/model/middle`, selects all weights in it.
    """
    return any(fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern.rstrip('/')}/*") for pattern in patterns)


def select(paths: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """The paths that match one of `include` and none of `exclude`, in their order."""
    return [path for path in paths if matches(path, include) and not matches(path, exclude)]


def check_patterns(name: str, patterns: Sequence[str], paths: Collection[str]) -> None:
    """Checks that every pattern matches a path.

    Args:
        name: The name of the option, for messages.
        patterns: The patterns.
        paths: All paths.

    Raises:
        ConfigError: a pattern matches nothing. The message contains a similar path, or patterns of all paths.
    """
    if isinstance(patterns, str):
        raise ConfigError(f"{name} must be a list of patterns, such as ['generator/*'], not the text {patterns!r}")
    for pattern in patterns:
        if pattern not in ALL and not any(matches(path, [pattern]) for path in paths):
            raise ConfigError(f"{name}: '{pattern}' matches no weight{_advice(pattern, paths)}")


def _advice(pattern: str, paths: Collection[str]) -> str:
    above = {"/".join(parts[:depth]) for parts in (path.split("/") for path in paths) for depth in range(1, len(parts))}
    near = difflib.get_close_matches(pattern.rstrip("/*"), sorted(above), n=1)
    if near:
        return f"; did you mean '{near[0]}/*'?"
    shallow = sorted({"/".join(path.split("/")[:2]) + ("/*" if path.count("/") > 1 else "") for path in paths})
    return (
        f"; the weights are {', '.join(shallow[:10])}{', ...' if shallow[10:] else ''}"
        if shallow
        else ": there are no weights"
    )
