"""The schema of `pipeline.yaml` and `decoder.yaml`, which say what a folder with trained weights holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import Field, PositiveInt

from kgen.config.source import read_file
from kgen.errors import ConfigError, RunError
from kgen.options.validation import check, dotted
from kgen.plugins.migrations import migrate
from kgen.plugins.registry import Kind

PARTS: tuple[Kind, ...] = ("encoder", "generator", "decoder")

MAX_BYTES = 8_000_000
"""Of a description: the names of 100,000 classes are some 2 MB."""

MAX_TEXT = 500
"""Letters of a message that quotes a description."""

MAX_SIDE = 2**14
"""Of an image, in pixels."""

Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class Part(pydantic.BaseModel):
    """The full id of a component, and its options, which its own signature checks."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @property
    def choice(self) -> dict[str, Any]:
        """As the functions of `kgen.parts.construction` take it."""
        return {"name": self.name, **self.options}


class DecoderDescription(pydantic.BaseModel):
    """What `save_decoder` wrote."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    api: PositiveInt
    """The contract that it was saved under."""
    dtype: Literal["float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"]
    image_shape: tuple[Side, Side, Annotated[int, Field(ge=1, le=4)]]
    decoder: Part
    files: tuple[str, ...] = ()
    """All files of the folder: what else lies in it is not kgen's."""


class PipelineDescription(DecoderDescription):
    """What `save` wrote."""

    encoder: Part
    generator: Part
    condition_dropout: Annotated[float, Field(ge=0, lt=1)]


Description = TypeVar("Description", bound=DecoderDescription)


def read_description(file: Path, schema: type[Description]) -> Description:
    """Reads a description, and checks it as a whole.

    Raises:
        RunError: it is missing, damaged, too large, or of a newer contract.
    """
    try:
        data = read_file(file, MAX_BYTES).data
    except ConfigError as error:
        first = str(error).splitlines()[0].removeprefix(f"{file}: ")
        raise RunError(f"{file} is damaged: {first}") from error
    description, problems = check(schema, migrate("description", data, file), file.name)
    if not isinstance(description, schema):
        told = "; ".join(f"{dotted(path)}: {message}" if path else message for path, message in problems[:5])
        raise RunError(f"{file} is damaged: {shorten(told)}")
    return description


def shorten(text: str) -> str:
    """A message that may quote a file of any size."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
