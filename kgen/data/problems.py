"""Refuses or skips images and captions that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from kgen.contracts.dataset import Problem
from kgen.errors import DataError

OnError = Literal["refuse", "skip"]
"""What to do about problems: refuse to train, or skip the images that have them."""

MAX_PRINTED = 10


def refuse(problems: Sequence[Problem], on_error: OnError, has_others: bool, owner: str, place: str) -> None:
    """Raises DataError if there are problems that must not, or cannot, be skipped.

    Args:
        problems: The problems.
        on_error: Whether problems may be skipped.
        has_others: Whether there are other examples to train on.
        owner: The name of the dataset, for the message.
        place: The place of the data, for the message.
    """
    if not problems or (on_error == "skip" and has_others):
        return
    lines = [f"  {problem.where}: {problem.what}" for problem in problems[:MAX_PRINTED]]
    if len(problems) > MAX_PRINTED:
        lines.append(f"  and {len(problems) - MAX_PRINTED} more")
    it = "them" if len(problems) > 1 else "it"
    skip = f"fix {it}, or leave {it} out with data.on_error: skip"
    end = skip if has_others else "there is nothing else to train on"
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    raise DataError("\n".join([f"{owner}: {count} in {place}:", *lines, end]))
