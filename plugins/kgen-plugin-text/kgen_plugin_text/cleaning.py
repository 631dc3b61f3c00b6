"""Turns any Python string into valid, composed Unicode without surrounding spaces."""

from __future__ import annotations

import unicodedata


def clean(text: str) -> str:
    """Returns the text in NFC, stripped. Lone surrogates, which cannot be encoded, become question marks."""
    return unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8")).strip()
