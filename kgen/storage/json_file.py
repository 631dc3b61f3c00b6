"""Reads JSON files that others may have written or damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pydantic

from kgen.errors import RunError
from kgen.wording import in_words

Value = TypeVar("Value")

MAX_BYTES = 100_000_000
"""Largest size of a file. (A vocabulary of a million words takes about 20 MB.)"""

MAX_TEXT = 200
"""Largest number of characters in a message that quotes the file."""


def read_json(path: Path, schema: type[Value]) -> Value:
    """Reads a JSON file, and validates it strictly against a schema.

    Args:
        path: The file.
        schema: A type (``list[str]``), a `TypedDict`, or a pydantic model.

    Raises:
        RunError: the file is missing or too large, is not JSON, or does not match the schema. The message names the
            wrong key.
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
    """Validates content that was read from `path`, like `read_json`."""
    try:
        return pydantic.TypeAdapter(schema).validate_json(content, strict=True)
    except pydantic.ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        text = f"{key}: {in_words(first)}" if key else in_words(first)
        raise RunError(f"{path} is damaged: {text[:MAX_TEXT]}") from error
