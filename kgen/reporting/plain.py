"""Texts of strangers: names of files and runs, prompts, captions, a plugin's summary."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text whose control characters are spelled out, so that it cannot command a terminal: `\\x1b[31m`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
