"""Options that name a component of one of kgen's kinds: ``Annotated[dict[str, Any], Choice("encoder")]``.

In a run file, such an option is a name, or a mapping with `name` and options, as for the kind's own key. It stays plain
data: the name becomes the full id, and the options are validated and completed with their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from kgen.errors import KgenError
from kgen.options.renamed import rename_keys
from kgen.options.validation import CHECKED_BELOW, KeyPath, check, model_of, plain, show
from kgen.plugins import discovery
from kgen.plugins.registry import Kind

NAME = "name"


class Choice:
    """Marks an option that names a component of one of kgen's kinds, with its options.

    Args:
        kind: The kind, such as "encoder".
        beside: A pydantic model of further keys, which are allowed beside the component's options.
    """

    def __init__(self, kind: Kind, beside: type[pydantic.BaseModel] | None = None) -> None:
        self.kind = kind
        self.beside = beside

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        return {"type": ["string", "object"], "description": f"one {self.kind}, with its options"}

    def _validate(self, value: Any) -> dict[str, Any]:
        given = {NAME: value} if isinstance(value, str) else value
        if not isinstance(given, Mapping) or not isinstance(name := given.get(NAME), str):
            raise _refusal(
                {(): f"must be the name of one {self.kind}, or a mapping with 'name', got {show(value)}"}, value
            )
        options = {str(key): plain(option) for key, option in given.items() if key != NAME}
        own = self.beside.model_fields if self.beside is not None else {}
        beside = {key: options.pop(key) for key in list(options) if key in own}
        if ":" in name:  # a class that no plugin registers, in a saved pipeline
            return {NAME: name, **options, **beside}
        try:
            component = discovery.registry().find(self.kind, name)
            cls = component.load()
            model = model_of(cls, component.id)
        except KgenError as error:
            raise _refusal({() if isinstance(value, str) else (NAME,): str(error)}, value) from error
        rename_keys(options, cls.renamed, component.id)
        checked, problems = check(model, options, component.id)
        if self.beside is not None:
            problems += check(self.beside, beside, component.id)[1]
        if checked is None or problems:
            raise _refusal(dict(problems), value)
        complete = {key: plain(getattr(checked, key)) for key in model.model_fields}
        return {NAME: component.id, **complete, **beside}


def _refusal(problems: Mapping[KeyPath, str], value: Any) -> pydantic.ValidationError:
    errors = [
        (path, PydanticCustomError(CHECKED_BELOW, "{message}", {"message": text})) for path, text in problems.items()
    ]
    details = [InitErrorDetails(type=error, loc=path, input=value) for path, error in errors]
    return pydantic.ValidationError.from_exception_data("choice", details)
