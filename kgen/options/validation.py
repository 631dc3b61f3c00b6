"""Validates options against a signature (or a pydantic model), with messages for users."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pydantic
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError, core_schema

from kgen.errors import ConfigError, PluginError
from kgen.options.renamed import rename_keys
from kgen.options.signature import option_model, options
from kgen.plugins import discovery
from kgen.plugins.registry import KINDS
from kgen.wording import UNKNOWN, in_words

KeyPath = tuple[str | int, ...]
Problem = tuple[KeyPath, str]

CHECKED_BELOW = "choice"
"""The type of an error in the options of a component that an option names. Its message is complete."""

KIND = "kind"
"""The key of a mapping that names which of several types it is."""

MAX_INTEGER = 2**31 - 1
"""The largest integer in a configuration, such as a seed. YAML with integers above 2^63 - 1 is refused at once."""


def model_of(function: Callable[..., Any], title: str) -> type[pydantic.BaseModel]:
    """The option model of a component's class, or of its `generate` or `decode`.

    Raises:
        PluginError: the signature cannot be used as a configuration, or an option takes an undeclared kind.
    """
    try:
        return option_model(function, title)
    except PluginError as error:
        raise PluginError(f"the options of '{title}': {error}") from error
    except (NameError, TypeError, ValueError, pydantic.errors.PydanticUserError) as error:
        raise PluginError(f"the signature of '{title}' cannot be read as options: {error}") from error


class _TolerantSchema(GenerateJsonSchema):
    """Allows anything where a JSON schema cannot describe a type."""

    ignored_warning_kinds: ClassVar[set[Any]] = {"skipped-choice", "non-serializable-default"}  # type: ignore[misc]

    def encode_default(self, dft: Any) -> Any:
        return super().encode_default(plain(dft))

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> dict[str, Any]:
        return {}


def plain(value: Any) -> Any:
    """Converts options to plain data for YAML and JSON.

    Dataclasses become mappings, tuples become lists, and NumPy's numbers become Python's. A component of a declared
    kind becomes a mapping with its name as `kind`, or only its name.

    Raises:
        PydanticSerializationError: the value cannot be written to a file.
    """
    return _PLAIN.dump_python(_named(value), mode="json", fallback=_number)


def _named(value: Any) -> Any:
    """Replaces the components of declared kinds, and all dataclasses, in a value by mappings or names."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_named(item) for item in value]
    registry = discovery.registry()
    if (entry := registry.of_class(value)) is not None and entry.kind not in KINDS:
        return {KIND: entry.short} if isinstance(value, type) else entry.short
    if isinstance(value, type):
        return value
    if (entry := registry.of_class(type(value))) is not None and entry.kind not in KINDS:
        if missing := [name for name in options(type(value)) if not hasattr(value, name)]:
            raise PluginError(f"{entry} must store its option '{missing[0]}' as self.{missing[0]}")
        return {KIND: entry.short, **{name: _named(getattr(value, name)) for name in options(type(value))}}
    if dataclasses.is_dataclass(value):
        return {field.name: _named(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


_PLAIN = pydantic.TypeAdapter(Any, config=pydantic.ConfigDict(ser_json_inf_nan="constants"))


def _number(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        raise PydanticSerializationError(f"a {type(value).__name__} is not plain data")
    return value.tolist()


def check_options(function: Callable[..., Any], given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Validates options that are given in Python exactly as `check` validates those of a run file.

    Args:
        function: A component's class, or one of its methods.
        given: Options by name.
        owner: The name of the class or method, for messages.

    Returns:
        The given options, converted to their annotated types.

    Raises:
        ConfigError: an option is unknown, missing or wrong.
        PluginError: see `model_of`.
    """
    model, data, found = model_of(function, owner), {}, []
    given = dict(given)
    rename_keys(given, getattr(function, "renamed", {}), owner)
    for name, value in given.items():
        try:
            data[name] = plain(value)
        except PydanticSerializationError:
            found.append(((name,), f"must be plain data that a file can hold, got {show(value)}"))
    checked, problems = (None, found) if found else check(model, data, owner)
    if checked is None:
        raise ConfigError(f"{owner}: {'; '.join(f'{dotted(path)}: {message}' for path, message in problems)}")
    return {name: getattr(checked, name) for name in given}


def schema_of(model: type[pydantic.BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model."""
    return model.model_json_schema(schema_generator=_TolerantSchema)


def check(model: type[pydantic.BaseModel], data: Any, owner: str) -> tuple[pydantic.BaseModel | None, list[Problem]]:
    """Validates plain data strictly: no text for numbers, no booleans for integers, no unknown keys.

    Args:
        model: The model to validate against.
        data: The data.
        owner: The owner of the top-level keys, for messages, such as "text/bag".

    Returns:
        The validated model or None, and the errors: key paths below `data`, with messages.
    """
    large = list(_integers_above(2**63, data))  # JSON cannot hold them all
    try:  # JSON: the strict mode in which a list may become a tuple, and a mapping a dataclass
        checked = None if large else model.model_validate_json(json.dumps(data), strict=True)
    except pydantic.ValidationError as error:
        return None, explain(error, model, data, owner)
    if large := large or list(_integers_above(MAX_INTEGER, data)):
        return None, [(path, f"must be at most {MAX_INTEGER:,}") for path in large]
    return checked, []


def _integers_above(limit: int, data: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yields the paths of integers in plain data that exceed a limit."""
    if isinstance(data, int) and abs(data) > limit:
        yield path
    elif isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _integers_above(limit, value, (*path, key))


def explain(error: pydantic.ValidationError, model: type[pydantic.BaseModel], data: Any, owner: str) -> list[Problem]:
    """The errors in data that a model has refused: key paths below `data`, with messages."""
    return list(_explain(error, schema_of(model), data, owner))


def _explain(error: pydantic.ValidationError, schema: dict[str, Any], data: Any, owner: str) -> Iterator[Problem]:
    reasons: dict[KeyPath, list[str]] = {}
    inputs: dict[KeyPath, Any] = {}
    explained: set[KeyPath] = set()
    for detail in error.errors(include_url=False):
        path = _key_path(detail["loc"], data)
        if detail["type"] == "union_tag_invalid":
            path = (*path, detail["ctx"]["discriminator"].strip("'"))
            detail["input"] = detail["ctx"]["tag"]
        reasons.setdefault(path, []).append(_reason(detail, path, schema, data, owner))
        inputs[path] = detail["input"]
        if detail["type"] == CHECKED_BELOW:
            explained.add(path)
    for path, texts in reasons.items():
        if any(other[: len(path)] == path and other != path for other in reasons):
            continue  # reports only the alternative of a union that matched best
        if path not in explained and all(text.startswith("must be ") for text in texts):
            choices = dict.fromkeys(text.removeprefix("must be ") for text in texts)
            yield path, f"must be {' or '.join(choices)}, got {show(inputs[path])}{_hint(inputs[path], texts)}"
        else:
            yield path, "; ".join(dict.fromkeys(texts))


def _key_path(loc: tuple[str | int, ...], data: Any) -> KeyPath:
    """The location of a pydantic error, without the names of union members."""
    path: KeyPath = ()
    for number, part in enumerate(loc):
        known = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if known:
            path, data = (*path, part), data[part]
        elif number == len(loc) - 1 and isinstance(data, dict) and number == len(path):
            path = (*path, part)  # a missing required key
    return path


def _reason(detail: Any, path: KeyPath, schema: dict[str, Any], data: Any, owner: str) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in UNKNOWN:
        where = owner if len(path) == 1 else f"'{path[-2]}'"
        return unknown_key(str(path[-1]), keys_at(schema, data, path[:-1]), where)
    if kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'")
        return f"needs '{tag}', one of {', '.join(_tags(schema, data, path, tag))}"
    if kind == "union_tag_invalid":
        return "must be " + _either(context["expected_tags"].split(", "))
    return in_words(detail)


def unknown_key(key: str, known: list[str], owner: str) -> str:
    """The message about a key that `owner` does not accept."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown key{hint} ({owner} takes: {', '.join(known) or 'no options'})"


def _hint(value: Any, texts: list[str]) -> str:
    """Suggests how to write a whole number, or the allowed word that is closest to the value."""
    if isinstance(value, float) and value.is_integer() and "must be a whole number" in texts:
        return f": write {int(value)}"
    words = [word.strip("'") for text in texts for word in text.split() if word.startswith("'")]
    words = [word.rstrip(",").strip("'") for word in words]
    near = difflib.get_close_matches(value, words, n=1) if isinstance(value, str) else []
    return f"; did you mean '{near[0]}'?" if near else ""


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def keys_at(schema: dict[str, Any], data: Any, path: KeyPath) -> list[str]:
    """The keys that the mapping at `path` accepts, given the alternatives that `data` selects."""
    return list(dict.fromkeys(key for node in _nodes(schema, data, path) for key in node.get("properties", {})))


def _tags(schema: dict[str, Any], data: Any, path: KeyPath, tag: str) -> list[str]:
    found = (tag_names(node, tag) for node in _nodes(schema, data, path))
    return [names[0] for names in found if names]


def tag_names(node: dict[str, Any], tag: str = KIND) -> list[str]:
    """The names that select a schema among several, the shortest first; an empty list if nothing selects it."""
    found = node.get("properties", {}).get(tag, {})
    if "const" in found:
        return [found["const"]]
    return list(found.get("enum", [])) if tag in node.get("required", []) else []


def _nodes(schema: dict[str, Any], data: Any, path: KeyPath) -> list[dict[str, Any]]:
    """The schemas that describe the value at `path`."""
    nodes = list(alternatives(schema, schema))
    for part in path:
        chosen = [node for node in nodes if _agrees(node, data)]
        below = [
            node["items"] if isinstance(part, int) else node["properties"][part] for node in chosen if _has(node, part)
        ]
        nodes = [leaf for node in below for leaf in alternatives(node, schema)]
        data = data[part]
    return [node for node in nodes if _agrees(node, data)]


def alternatives(node: dict[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the members of a schema that is a union, or the schema itself, with references resolved."""
    if "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    members = node.get("anyOf") or node.get("oneOf")
    if members is None:
        yield node
    else:
        for member in members:
            yield from alternatives(member, root)


def _has(node: dict[str, Any], part: str | int) -> bool:
    return "items" in node if isinstance(part, int) else part in node.get("properties", {})


def _agrees(node: dict[str, Any], data: Any) -> bool:
    """Whether a mapping has the constants (such as `kind`) that a schema requires."""
    if not isinstance(data, dict):
        return True
    return all(value in names for key, value in data.items() if (names := tag_names(node, key)))


def dotted(path: KeyPath) -> str:
    """("fit", "steps") -> "fit.steps"; ("evaluate", "metrics", 0) -> "evaluate.metrics[0]"."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def show(value: Any) -> str:
    """A short text of a value, for messages."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
