"""What a shard holds, as lists that kgen's cache can remember."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Listing:
    """The images of a shard, with their captions and labels. The first lists have one item per image.

    Attributes:
        names: The name of the image in the shard.
        places: Where the image is: the offset of its bytes, or the number of its record.
        sizes: Its size in bytes.
        captions: Its captions; [] if it has none.
        labels: Its class; "" if it has none.
        reasons: Why it has no captions; "" if it has.
        problems: What cannot be used, by a name in the shard, and why; the name "" is the shard itself.
        sources: Where the captions are from, for people to read.
        others: The number of files of each suffix that were not read, and an example.
        translations: The number of translations that were left out.
        notes: Lines that say how the shard was read.
        boxes: Whether all captions are numbers of boxes.
    """

    names: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    others: dict[str, tuple[int, str]] = field(default_factory=dict)
    translations: int = 0
    notes: list[str] = field(default_factory=list)
    boxes: bool = True

    def add(self, name: str, place: int, size: int, captions: list[str], label: str, reason: str) -> None:
        """Adds an image."""
        self.names.append(name)
        self.places.append(place)
        self.sizes.append(size)
        self.captions.append(captions)
        self.labels.append(label)
        self.reasons.append(reason)

    def plain(self) -> dict[str, Any]:
        """The lists as plain data, of which ``Listing(**data)`` is made again."""
        return dataclasses.asdict(self)
