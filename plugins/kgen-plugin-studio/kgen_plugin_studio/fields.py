"""The fields of the page for options of a generator and a decoder, made from their signatures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kgen import Capability, Pipeline, option_of
from kgen.options import model_of, schema_of
from kgen.options.documentation import described
from kgen.options.rows import option_rows
from kgen.options.validation import alternatives, tag_names

BOOLEANS = ("true", "false")


@dataclass(frozen=True)
class Field:
    """A field for one option.

    Args:
        key: The key of the option after `--set`, such as "steps" or "decoder.steps".
        default: The default, as a user would write it.
        help: The description, and the allowed values.
        choices: The values to choose from; empty: the user types the value.
        main: Whether it is the number of steps or the weight of guidance, which the page does not fold away.
    """

    key: str
    default: str
    help: str
    choices: tuple[str, ...] = ()
    main: bool = False


def fields_of(pipeline: Pipeline) -> list[Field]:
    """A field for each option of the generator's `generate`, except its strength, and of the decoder's `decode`."""
    generator, decoder = type(pipeline.generator), type(pipeline.decoder)
    return [*_fields(generator.generate, generator), *_fields(decoder.decode, decoder, "decoder.")]


def settings_of(fields: list[Field], values: Mapping[str, str | None]) -> tuple[str, ...]:
    """The settings "KEY=VALUE" of all fields with another value than the default, as after `--set`.

    Args:
        values: What the user chose or typed, by the key of the field; an empty text stands for the default.
    """
    given = {field.key: (values.get(field.key) or "").strip() for field in fields}
    return tuple(f"{field.key}={given[field.key]}" for field in fields if given[field.key] not in ("", field.default))


def _fields(method: Callable[..., Any], owner: type[Any], prefix: str = "") -> Iterator[Field]:
    schema = schema_of(model_of(method, owner.__name__))
    texts = described(method, owner).arguments
    main = {option_of(method, capability) for capability in (Capability.GUIDANCE, Capability.STEPS)} - {None}
    strength = option_of(method, Capability.STRENGTH)  # belongs to the image to start from
    for name, allowed, default in option_rows(schema, schema):
        if "." in name or name == strength:  # an option of a part is written in the part's mapping
            continue
        default = str(json.loads(default)) if default.startswith('"') else default  # as users write it
        note = f"{allowed}; default: {default}"
        text = f"{texts[name]} ({note})" if name in texts else note
        yield Field(f"{prefix}{name}", default, text, _choices(schema["properties"][name], schema), name in main)


def _choices(node: Mapping[str, Any], root: dict[str, Any]) -> tuple[str, ...]:
    """The names that an option allows; empty if it allows values without a name."""
    names: list[str] = []
    for leaf in alternatives(dict(node), root):
        if leaf.get("type") == "boolean":
            names += BOOLEANS
        elif "const" in leaf or "enum" in leaf:
            names += [str(value) for value in leaf.get("enum", [leaf.get("const")])]
        elif leaf.get("type") == "null":
            names.append("null")
        elif tags := tag_names(leaf):
            names.append(tags[0])
        else:
            return ()
    bare = [name for name in names if name.partition("/")[2] not in names]
    return tuple(dict.fromkeys(bare))
