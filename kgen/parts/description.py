"""The schema of `pipeline.yaml`, `encoder.yaml` and `decoder.yaml`, which describe folders with trained weights."""

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
"""Largest size of a description, in bytes. (The names of 100,000 classes take about 2 MB.)"""

MAX_TEXT = 500
"""Largest number of characters in a message that quotes a description."""

MAX_SIDE = 2**14
"""Largest height and width of an image, in pixels."""

Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class Part(pydantic.BaseModel):
    """The full id of a component, and its options, which its signature validates."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @property
    def choice(self) -> dict[str, Any]:
        """The mapping that the functions of `kgen.parts.construction` accept."""
        return {"name": self.name, **self.options}


class FolderDescription(pydantic.BaseModel):
    """The content of all descriptions."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    api: PositiveInt
    """The number of the contract under which it was saved."""
    dtype: Literal["float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"]
    files: tuple[str, ...] = ()
    """All files of the folder; other files in it are not kgen's."""


class EncoderDescription(FolderDescription):
    """The content of `encoder.yaml`, which `save_encoder` writes."""

    encoder: Part


class DecoderDescription(FolderDescription):
    """The content of `decoder.yaml`, which `save_decoder` writes."""

    image_shape: tuple[Side, Side, Annotated[int, Field(ge=1, le=4)]]
    decoder: Part


class PipelineDescription(DecoderDescription):
    """The content of `pipeline.yaml`, which `save` writes."""

    encoder: Part
    generator: Part
    condition_dropout: Annotated[float, Field(ge=0, lt=1)]


Description = TypeVar("Description", bound=FolderDescription)


def read_description(file: Path, schema: type[Description]) -> Description:
    """Reads and validates a description.

    Raises:
        RunError: the file is missing, damaged, too large, or of a newer contract.
    """
    try:
        data = read_file(file, MAX_BYTES).data
    except ConfigError as error:
        first = str(error).splitlines()[0].removeprefix(f"{file}: ")
        raise RunError(f"{file} is damaged: {first}") from error
    description, problems = check(schema, migrate("description", data, file), file.name)
    if not isinstance(description, schema):
        text = "; ".join(f"{dotted(path)}: {message}" if path else message for path, message in problems[:5])
        raise RunError(f"{file} is damaged: {shorten(text)}")
    return description


def shorten(text: str) -> str:
    """Shortens a message that may quote a file of any size."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
