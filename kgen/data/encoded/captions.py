"""Captions in texts: one caption per line, or an object in JSON, as they are stored beside an image."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CAPTION_COLUMNS = ("text", "caption", "captions", "description", "prompt", "title", "comment")
"""Names of captions in tables and in JSON, in lower case. "text" is used first; any other must be the only one."""

DEFAULT_TEMPLATE = "{label}"
"""The default caption of an image that has only a class: the name of the class."""

MAX_CAPTION = csv.field_size_limit()
"""Largest number of characters in a caption; a longer one is an error."""

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_BOXES = re.compile(r"\d+(\s+-?(\d+(\.\d*)?|\.\d+)){4,}")
"""A line of YOLO's labels: a class, and the numbers of a box. It matches each number in only one way, which is fast."""

_TRANSLATION = re.compile(r"[a-z]{2,3}(_[A-Z]{2})?(@\w+)?\.utf8=")
"""A line in descriptions of Tux Paint that translates the first line into another language."""


class TextError(ValueError):
    """A file cannot be read as text, or holds no caption; the message says why, and what to do."""


def decode_text(data: bytes, path: str) -> str:
    """Decodes a file as UTF-8, or in the encoding of its byte order mark. Raises TextError.

    Args:
        data: The content of the file.
        path: The path of the file, for messages.
    """
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        number = len(data[: error.start + 1].splitlines())
        line = data.splitlines()[number - 1][-60:].decode("cp1252", "replace")
        raise TextError(
            f"is not UTF-8 text in line {number}. If that is {line!r}, it is Windows-1252: "
            f"iconv -f WINDOWS-1252 -t UTF-8 '{path}' > new && mv new '{path}'"
        ) from error
    if "\0" in text:
        raise TextError(f"holds null bytes. If it is UTF-16: iconv -f UTF-16LE -t UTF-8 '{path}' > new")
    return text


def captions_in_text(text: str) -> tuple[list[str], int]:
    """Returns the captions, one per line, and the number of translations that were left out. Raises TextError."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    captions = [line for line in lines if line and not _TRANSLATION.match(line)]
    return _checked(captions), sum(bool(_TRANSLATION.match(line)) for line in lines)


def captions_in_json(text: str, caption_key: str | None) -> list[str]:
    """Returns the caption of an object in JSON, or its list of captions. Raises TextError."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TextError(f"is not JSON: {error}") from error
    key = key_of_caption(content, caption_key) if isinstance(content, dict) else None
    if key is None:
        raise TextError(f"has no '{caption_key or 'caption'}'")
    value = content[key]
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, str) for item in values):
        raise TextError(f"holds no text as '{key}'")
    return _checked([" ".join(item.split()) for item in values])


def key_of_caption(content: Mapping[str, Any], caption_key: str | None) -> str | None:
    """The key of the caption in an object; None if it has none."""
    wanted = CAPTION_COLUMNS if caption_key is None else (caption_key,)
    return next((name for name in wanted if name in content), None)


def are_boxes(captions: Sequence[str]) -> bool:
    """Whether all captions are numbers of boxes, like YOLO's labels, and therefore not captions."""
    return all(map(_BOXES.fullmatch, captions))


def shuffled_tags(caption: str, keep: int, number: int) -> str:
    """Puts the tags of a caption, which are separated by commas, in a random order.

    Args:
        caption: The caption.
        keep: Number of tags at the beginning that stay there.
        number: A random integer in [0, 2^128), which determines the order.

    Returns:
        The tags, separated by a comma and a space; or the caption as it is, if there are no two tags to shuffle.
    """
    tags = [tag for part in caption.split(",") if (tag := part.strip())]
    rest = tags[keep:]
    if len(rest) < 2:
        return caption
    order = np.argsort(np.random.Philox(key=number).random_raw(len(rest)), kind="stable")
    return ", ".join([*tags[:keep], *(rest[place] for place in order.tolist())])


def _checked(captions: list[str]) -> list[str]:
    """Returns the distinct captions. Raises TextError if there is none, or if one is too long."""
    captions = [caption for caption in dict.fromkeys(captions) if caption]
    if not captions:
        raise TextError("is empty")
    if (longest := max(map(len, captions))) > MAX_CAPTION:
        raise TextError(f"has {longest:,} characters in a line, more than {MAX_CAPTION:,}")
    return captions


def alternatives(names: Sequence[str]) -> str:
    """The names of columns from which a user must choose, for messages: 'a' or 'b'."""
    return " or ".join(f"'{name}'" for name in names)
