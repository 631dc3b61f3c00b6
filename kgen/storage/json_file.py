"""Reads JSON that somebody else may have written or damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pydantic

from kgen.errors import RunError

Value = TypeVar("Value")

MAX_BYTES = 100_000_000
"""Of a file: a vocabulary of a million words is some 20 MB."""

MAX_TEXT = 200
"""Letters of a message that quotes the file."""


def read_json(path: Path, schema: type[Value]) -> Value:
    """Reads a JSON file, and checks it strictly against a schema.

    Args:
        schema: A type (``list[str]``), a `TypedDict`, or a pydantic model.

    Raises:
        RunError: the file is missing, too large, no JSON, or not what the schema says; with the key that is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise RunError(f"{path} is damaged: it is larger than {MAX_BYTES:,} bytes")
    return check_json(path, content, schema)


def check_json(path: Path, content: bytes | str, schema: type[Value]) -> Value:
    """As `read_json`, of what was read from `path` already."""
    try:
        return pydantic.TypeAdapter(schema).validate_json(content, strict=True)
    except pydantic.ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        told = f"{key}: {first['msg']}" if key else str(first["msg"])
        raise RunError(f"{path} is damaged: {told[:MAX_TEXT]}") from error
