"""Says in kgen's words what pydantic finds wrong with a value."""

from __future__ import annotations

from typing import Any

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""The types of the errors about a key that nothing reads."""

MUST_BE = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "float_parsing": "a number",
    "float_type": "a number",
    "frozen_set_type": "a list",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "iterable_type": "a list",
    "list_type": "a list",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "null",
    "set_type": "a list",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What a value must be, by the type of the error about its type."""


def in_words(detail: Any) -> str:
    """The message about one error, as `pydantic.ValidationError.errors` describes it: "must be greater than 0"."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in MUST_BE:
        return f"must be {MUST_BE[kind]}"
    if kind in UNKNOWN:
        return "is an unknown key"
    if kind.startswith("missing"):
        return "is required"
    if kind == "json_invalid":
        return f"is not valid JSON: {context['error']}"
    if kind == "string_pattern_mismatch":
        return f"must match the pattern {context['pattern']}"
    if kind in ("string_too_short", "string_too_long", "too_short", "too_long"):
        return _length(kind, context)
    message: str = detail["msg"]
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    return message.replace("Input should be ", "must be ").replace("Input should ", "must ").replace("Input ", "")


def _length(kind: str, context: Any) -> str:
    """The message about a text, a list or a mapping that is too short or too long."""
    short = kind.endswith("short")
    number = context["min_length" if short else "max_length"]
    if short and number == 1:
        return "must not be empty"
    items = "key" if context.get("field_type") == "Dictionary" else "item"
    what = "character" if kind.startswith("string") else items
    return f"must have at {'least' if short else 'most'} {number} {what}{'' if number == 1 else 's'}"
