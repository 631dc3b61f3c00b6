"""Divides captioned images into the splits for training, validation and holdout."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence

from kgen.errors import DataError


def check_holdout(holdout: Sequence[str], captions: Iterable[str], owner: str) -> None:
    """Raises DataError if a caption to be held out does not exist; the message suggests similar captions."""
    known = set(captions) if holdout else set()
    for text in holdout:
        if text not in known:
            near = difflib.get_close_matches(text, sorted(known), n=3)
            hint = f": did you mean {', '.join(map(repr, near))}?" if near else ""
            raise DataError(f"{owner}: holdout: there is no caption '{text}'{hint}")


def stable_share(keys: Sequence[str], fraction: float) -> set[str]:
    """A share of the distinct keys, at least one if `fraction` is not 0.

    The hashes of the keys decide which are chosen. The choice therefore hardly changes if keys are added.
    """
    different = set(keys) if fraction else set()
    if len(different) < 2:
        return set()
    ordered = sorted(different, key=lambda key: hashlib.sha256(key.encode()).digest())
    return set(ordered[: max(1, round(fraction * len(ordered)))])
