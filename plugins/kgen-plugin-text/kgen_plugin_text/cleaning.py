"""Any Python string -> valid, composed Unicode without space around it."""

from __future__ import annotations

import unicodedata


def clean(text: str) -> str:
    """NFC, stripped; lone surrogates, which no encoding can hold, become question marks."""
    return unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8")).strip()
