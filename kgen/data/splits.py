"""Divides captioned images into the splits for training, validation and holdout."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence

from kgen.contracts.dataset import Split
from kgen.errors import DataError

Entries = dict[Split, list[tuple[str, str]]]
"""The name of an image and one of its captions, for each example of a split."""


def divide(found: Entries, *, validation: float, holdout: Sequence[str], owner: str, place: str) -> Entries:
    """Moves held-out captions from all splits to "holdout", and a share of the training images to "validation".

    Args:
        found: The examples of "train" and "validation".
        validation: The share of the training images.
        holdout: The captions to hold out.
        owner: The name of the dataset, for messages.
        place: The place of the data, for messages.

    Raises:
        DataError: there is a validation split already; a caption does not exist; nothing is left to train on.
    """
    if validation and found["validation"]:
        raise DataError(
            f"{owner}: {place} already defines a validation split: leave the option validation out, or give the "
            "training images alone as path"
        )
    entries = [entry for split in found.values() for entry in split]
    check_holdout(holdout, (caption for _, caption in entries), owner)
    held = [entry for entry in entries if entry[1] in holdout] if holdout else []
    unseen = {name for name, _ in held}  # an image may have other captions too
    seen = [entry for entry in found["train"] if entry[0] not in unseen]
    measured = stable_share([name for name, _ in seen], validation)
    splits: Entries = {
        "train": [entry for entry in seen if entry[0] not in measured],
        "validation": [
            *(entry for entry in seen if entry[0] in measured),
            *(entry for entry in found["validation"] if entry[0] not in unseen),
        ],
        "holdout": held,
    }
    if not splits["train"]:
        raise DataError(f"{owner}: holdout and validation leave no image to train on")
    return splits


def captions_by_image(entries: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The captions of each image."""
    found: dict[str, list[str]] = {}
    for name, caption in entries:
        found.setdefault(name, []).append(caption)
    return {name: tuple(captions) for name, captions in found.items()}


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
