"""Pages in one file, without references to others: style, tables and pictures for reports."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #d1d9e0 }
img { max-width: 100%; image-rendering: pixelated } figure { margin: 0 0 1rem }
figcaption, footer, .quiet { color: #59636e; font-size: 13px }
.over-time { display: flex; gap: 1rem; overflow-x: auto }
.over-time img { max-width: 15rem } table { border-collapse: collapse }
td, th { padding: .2rem .8rem .2rem 0; text-align: left }
pre { background: #f6f8fa; padding: 1rem; overflow-x: auto; font-size: 13px }
"""


def page(title: str, body: str) -> str:
    """An HTML page; `title` is escaped here, `body` by the caller."""
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)} - kgen</title>\n<style>\n{_STYLE}</style>\n{body}\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, which are escaped here."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def picture(path: Path, caption: str = "") -> str:
    """A PNG within the page, with the prompt from its metadata; nothing where there is no file."""
    if not path.is_file():
        return ""
    with Image.open(path) as opened:
        prompt = html.escape(str(opened.info.get("prompt", "")), quote=True)
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    name = html.escape(caption or path.stem)
    return (
        f'<figure><img alt="{name}: {prompt}" title="{prompt}" '
        f'src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>'
    )
