"""Reads YAML into plain data, with the place of each key in the file.

The reader follows YAML 1.2's core schema (`1e-3` is a number, `on` is text). It refuses features that run files do not
need, and that could be abused: anchors, aliases, tags, merge keys, several documents, duplicate keys, deep nesting and
huge files. It processes the events of the parser, because loaders (also that of ruamel.yaml) build the whole document
first, and stop at the first problem.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kgen.errors import ConfigError
from kgen.options.validation import KeyPath, dotted, show

MAX_BYTES = 1_000_000
"""Largest size of a run file, in bytes."""
MAX_DEPTH = 20

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MERGE = "<<"
NULL = re.compile(r"~|null|Null|NULL|")
TRUE = re.compile(r"true|True|TRUE")
FALSE = re.compile(r"false|False|FALSE")
INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(order=True, frozen=True)
class Origin:
    """The place of a key: `order` sorts problems, `label` names the place to a user ("x.yaml:12")."""

    order: int
    label: str


@dataclass
class Source:
    """A configuration as plain data, with the places of its keys and the problems that were found.

    Args:
        data: Plain mappings, lists and scalars.
        origin: The place of the whole configuration.
        where: The place of each key and list item. A path that is missing has the place of its nearest parent.
        problems: The problems so far, with their places.
    """

    data: dict[str, Any]
    origin: Origin
    where: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[tuple[Origin, str]] = field(default_factory=list)

    def at(self, path: KeyPath) -> Origin:
        """The place of a key, or of its nearest parent."""
        while path and path not in self.where:
            path = path[:-1]
        return self.where.get(path, self.origin)

    def put(self, path: KeyPath, value: Any, origin: Origin) -> None:
        """Sets a key, and creates the mappings above it. The old value and all keys below it are replaced.

        Raises:
            ValueError: a key above it does not hold a mapping.
        """
        node = self.data
        for depth, key in enumerate(path[:-1], 1):
            child = node.setdefault(str(key), {})
            if not isinstance(child, dict):
                raise ValueError(f"'{dotted(path[:depth])}' is {show(child)}, not a mapping: set it as a whole")
            node = child
        node[str(path[-1])] = value
        self.where = {known: place for known, place in self.where.items() if known[: len(path)] != path}
        self.where[path] = origin

    def report(self, path: KeyPath, message: str) -> None:
        """Notes a problem with a key."""
        self.problems.append((self.at(path), f"{dotted(path)}: {message}" if path else message))

    def raise_problems(self) -> None:
        """Raises one ConfigError with all problems, one per line, in the order of the file."""
        if self.problems:
            ordered = sorted(dict.fromkeys(self.problems), key=lambda problem: problem[0].order)
            raise ConfigError("\n".join(f"{origin.label}: {message}" for origin, message in ordered))


def read_file(path: Path, max_bytes: int = MAX_BYTES) -> Source:
    """Reads a YAML file.

    Args:
        path: The file.
        max_bytes: Largest size; a larger file is refused.

    Raises:
        ConfigError: the file is missing or damaged, or uses a feature that is refused. The message lists all problems,
            one per line.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: {'is a folder, not a YAML file' if path.is_dir() else 'there is no such file'}")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ConfigError(f"{path}: is larger than {max_bytes:,} bytes, which no file of this kind needs")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text (byte {error.start})") from error
    source = Source({}, Origin(0, str(path)))
    data = _read(text, source, lambda line: Origin(line, f"{path}:{line}"))
    source.raise_problems()
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"must be a mapping of keys to values, not {show(data)}"
        raise ConfigError(f"{path}: {found}; 'kgen schema' describes the keys")
    source.data = data
    return source


def parse_value(text: str) -> Any:
    """Parses the value of KEY=VALUE: a YAML scalar, or a list or mapping in flow style.

    Raises:
        ConfigError: the text is not YAML, or uses a feature that is refused.
    """
    origin = Origin(0, "")
    source = Source({}, origin)
    value = _read(text, source, lambda line: origin)
    if source.problems:
        raise ConfigError("; ".join(message for _, message in source.problems))
    return value


def _read(text: str, source: Source, place: Any) -> Any:
    if match := re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text):
        line = text.count("\n", 0, match.start()) + 1
        source.problems.append((place(line), f"control character {match.group()!r} is not allowed"))
        return None
    try:
        return _Builder(yaml.parse(text, Loader=LOADER), source, place).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        source.problems.append((place(line), f"is not valid YAML: {error.problem or error.context}"))
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        source.problems.append((source.origin, f"is not valid YAML: {str(error).splitlines()[0]}"))
    except _TooDeepError as error:
        source.problems.append((place(error.args[0]), f"is nested more than {MAX_DEPTH} levels deep"))
    return None


class _TooDeepError(Exception):
    """The document is nested too deeply; the argument is the line."""


class _Builder:
    """Builds data from the parser's events, one by one, so that nothing large is built before it is refused."""

    def __init__(self, events: Iterator[Any], source: Source, place: Any) -> None:
        self.events = events
        self.source = source
        self.place = place

    def document(self) -> Any:
        next(self.events)  # start of the stream
        start = next(self.events)
        if isinstance(start, yaml.StreamEndEvent):
            return None
        if start.tags:
            self.refuse(start, "tags (%TAG) are not allowed")
        data = self.node(next(self.events), (), 0)
        next(self.events)  # end of the document
        if not isinstance(following := next(self.events), yaml.StreamEndEvent):
            self.refuse(following, "a second document ('---') is not allowed")
        return data

    def node(self, event: Any, path: KeyPath, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _TooDeepError(event.start_mark.line + 1)
        if isinstance(event, yaml.AliasEvent):
            self.refuse(event, f"aliases (*{event.anchor}) are not allowed: quote the text, or write the value again")
            return None
        if event.anchor:
            self.refuse(event, f"anchors (&{event.anchor}) are not allowed")
        if event.tag:
            self.refuse(event, f"tags ({event.tag}) are not allowed")
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(path, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(path, depth)
        return self.scalar(event)

    def mapping(self, path: KeyPath, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.node(event, path, depth + 1)
            at = self.place(event.start_mark.line + 1)
            if key == MERGE and event.implicit[0]:
                self.refuse(event, "merge keys (<<) are not allowed")
            elif not isinstance(key, str):
                self.refuse(event, f"keys must be text, not {show(key)}: quote it")
            elif key in found:
                first = self.source.where[(*path, key)].label
                self.refuse(event, f"{dotted((*path, key))}: is given twice, at {first} and here")
            else:
                self.source.where[(*path, key)] = at
            found[str(key)] = self.node(next(self.events), (*path, str(key)), depth + 1)
        return found

    def sequence(self, path: KeyPath, depth: int) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            item = (*path, len(found))
            self.source.where[item] = self.place(event.start_mark.line + 1)
            found.append(self.node(event, item, depth + 1))
        return found

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.refuse(event, "half of a surrogate pair is not text")
            return None
        if not event.implicit[0]:  # quoted, or a block
            return text
        if NULL.fullmatch(text):
            return None
        if TRUE.fullmatch(text) or FALSE.fullmatch(text):
            return bool(TRUE.fullmatch(text))
        number = _number(text)
        if number is not None and not math.isfinite(number):
            self.refuse(event, f"{text[:20]} is not a usable number")
            return None
        return text if number is None else number

    def refuse(self, event: Any, message: str) -> None:
        self.source.problems.append((self.place(event.start_mark.line + 1), message))


def _number(text: str) -> int | float | None:
    """The number in a plain scalar: infinite if it is too large to be used, None if the scalar is text."""
    try:
        if INTEGER.fullmatch(text):
            whole = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            return whole if abs(whole) < 2**63 else math.inf
        if FLOAT.fullmatch(text):
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:  # Python refuses to read thousands of digits
        return math.inf
    return None


def to_yaml(data: Any) -> str:
    """Writes plain data as YAML that `read_file` reads; quotes text that looks like a number."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Quotes text that this module would otherwise read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern in (("null", NULL), ("bool", TRUE), ("bool", FALSE), ("int", INTEGER), ("float", FLOAT)):
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"({_pattern.pattern})\Z"), None)
