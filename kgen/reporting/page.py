"""Self-contained HTML pages, made from templates that escape every value."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from kgen.reporting.plain import printable


@dataclass(frozen=True)
class Figure:
    """An image in a page.

    Args:
        source: A data URI.
        caption: The text below the image.
        prompt: The prompt of the image; "": unknown.
        kind: The class in the style sheet: "pixels" are enlarged without smoothing, a "plot" is not.
    """

    source: str
    caption: str
    prompt: str = ""
    kind: str = "pixels"


def render(template: str, **values: Any) -> str:
    """Renders a template in `templates/` to an HTML page.

    Args:
        template: The file name of the template.
        values: The values that it names.

    Raises:
        jinja2.UndefinedError: the template names a value that is missing.
    """
    return _environment().get_template(template).render(values)


def image(path: Path, caption: str = "") -> Figure | None:
    """A PNG for a page, with the prompt from its metadata; None if there is no file."""
    if not path.is_file():
        return None
    with Image.open(path) as opened:
        prompt = str(opened.info.get("prompt", ""))
    return Figure(_data_uri("image/png", path.read_bytes()), caption or path.stem, prompt)


def plot(svg: str, caption: str) -> Figure:
    """An SVG for a page. Its styles and element names do not affect the page or other plots."""
    return Figure(_data_uri("image/svg+xml", svg.encode("utf-8")), caption, kind="plot")


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("kgen.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
