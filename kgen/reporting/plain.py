"""Makes untrusted texts printable: names of files and runs, prompts, captions, the summary of a plugin."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text with escaped control characters, so that it cannot control a terminal: `\\x1b[31m`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
