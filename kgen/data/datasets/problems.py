"""What becomes of images and captions that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from kgen.contracts.dataset import Problem
from kgen.errors import DataError

OnError = Literal["refuse", "skip"]
"""What to do about problems: not to train, or to leave out what has them."""

MAX_PRINTED = 10


def refuse(problems: Sequence[Problem], on_error: OnError, anything: bool, owner: str, place: str) -> None:
    """Raises DataError in the name of `owner` if there are problems that must not, or cannot, be skipped.

    Args:
        anything: Whether something is left to train on.
        place: Where the data are.
    """
    if not problems or (on_error == "skip" and anything):
        return
    lines = [f"  {problem.where}: {problem.what}" for problem in problems[:MAX_PRINTED]]
    if len(problems) > MAX_PRINTED:
        lines.append(f"  and {len(problems) - MAX_PRINTED} more")
    end = "mend them, or leave them out with on_error: skip" if anything else "there is nothing else to train on"
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    raise DataError("\n".join([f"{owner}: {count} in {place}:", *lines, end]))
