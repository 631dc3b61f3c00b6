"""What an encoder is given for one example: the value of the field that it reads, or a mapping of several fields.

Of a caption or a label that is a text, of an image an array, of a caption and a label `{"caption": ..., "label": ...}`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kgen.contracts.dataset import Dataset
from kgen.contracts.encoder import Encoder
from kgen.errors import ConfigError
from kgen.plugins.discovery import component_id


def input_key(value: Any) -> str:
    """A text that stands for an input: the same for equal inputs, different for others. "" says nothing.

    A text is its own key. Keys find cached conditions, and the noise of an image depends on the key of its prompt.

    Raises:
        ConfigError: it is neither a text, a number, an array, nor a mapping of these.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        keys = {str(field): input_key(item) for field, item in sorted(value.items())}
        return json.dumps(keys) if any(keys.values()) else ""
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        digest = hashlib.blake2b(f"{value.dtype} {value.shape} ".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(value).tobytes())
        return f"array {digest.hexdigest()}"
    raise ConfigError(f"a prompt is a text, a number, an array, or a mapping of fields, not {type(value).__name__}")


def as_input(encoder: Encoder, value: Any) -> Any:
    """A value as `encoder.tokenize` takes it, from the value of its one field, or from a mapping of fields.

    A field that a mapping leaves out says nothing.

    Raises:
        ConfigError: a mapping names a field that the encoder does not read; or several fields are read, and it is none.
    """
    fields = encoder.fields
    if not isinstance(value, Mapping):
        if len(fields) == 1 or input_key(value) == "":
            return value if len(fields) == 1 else encoder.null
        raise ConfigError(
            f"encoder '{component_id(encoder)}' reads {' and '.join(fields)}: a prompt is a mapping of these fields, "
            f"such as {{{', '.join(f'{field}: ...' for field in fields)}}}"
        )
    if unknown := [str(field) for field in value if field not in fields]:
        near = difflib.get_close_matches(unknown[0], fields, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(
            f"encoder '{component_id(encoder)}' reads {' and '.join(fields)}: a prompt cannot hold '{unknown[0]}'{hint}"
        )
    if len(fields) == 1:
        return value.get(fields[0], encoder.null)
    return {field: value.get(field, encoder.null[field]) for field in fields}


def require_fields(encoder: Encoder, dataset: Dataset, owner: str = "dataset") -> None:
    """Raises ConfigError where an encoder reads a field that a dataset does not have.

    Args:
        owner: What the dataset is, for the message.
    """
    if missing := [field for field in encoder.fields if field not in dataset.fields]:
        raise ConfigError(
            f"encoder '{component_id(encoder)}' reads the field '{missing[0]}', but {owner} '{component_id(dataset)}' "
            f"has {', '.join(dataset.fields)}: choose another encoder, or data with that field"
        )


def distinct(inputs: Iterable[Any]) -> dict[str, int]:
    """Where each different input stands first, by its key, in order of appearance."""
    found: dict[str, int] = {}
    for index, value in enumerate(inputs):
        found.setdefault(input_key(value), index)
    return found


def are_texts(inputs: Sequence[Any]) -> bool:
    """Whether inputs are texts, which are few bytes and may be gone through as often as wanted: captions, labels."""
    first = inputs[0] if len(inputs) else ""
    return all(isinstance(value, str) for value in (first.values() if isinstance(first, Mapping) else [first]))
