"""Divides captioned images into training, validation and what is held out."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Sequence

from kgen.errors import DataError


def check_holdout(holdout: Sequence[str], captions: Collection[str], owner: str) -> None:
    """Raises DataError in the name of `owner` for what is to be held out but is not there, with near captions."""
    known = set(captions)
    for text in holdout:
        if text not in known:
            near = difflib.get_close_matches(text, sorted(known), n=3)
            hint = f": did you mean {', '.join(map(repr, near))}?" if near else ""
            raise DataError(f"{owner}: holdout: there is no caption '{text}'{hint}")


def some(keys: Sequence[str], fraction: float) -> set[str]:
    """A share of the different keys, at least one if any is wanted, that hardly changes when keys are added."""
    ordered = sorted(set(keys), key=lambda key: hashlib.sha256(key.encode()).digest())
    count = max(1, round(fraction * len(ordered))) if fraction and len(ordered) > 1 else 0
    return set(ordered[:count])
