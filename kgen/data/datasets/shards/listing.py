"""The content of a shard, as lists that kgen's cache can store."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Listing:
    """The images of a shard, with their captions and labels. The first lists have one item per image.

    Attributes:
        names: The name of each image in the shard.
        places: Where each image is: the offset of its bytes, or the number of its record.
        sizes: The size of each image in bytes.
        captions: The captions of each image; [] if it has none.
        labels: The class of each image; "" if it has none.
        reasons: Why an image has no captions; "" if it has some.
        problems: The name in the shard of each thing that cannot be used, and why; the name "" is the shard itself.
        sources: Where the captions are from, for people to read.
        others: The number of files of each suffix that were not read, and an example.
        translations: The number of translations that were left out.
        notes: Lines that say how the shard was read.
        boxes: Whether all captions are numbers of boxes, like YOLO's labels.
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
