"""The base of datasets whose images are in shards."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from kgen.contracts.dataset import Problem
from kgen.data.datasets.folder.files import describe_kinds, escaped
from kgen.data.datasets.shards.cache import read_listing, write_listing
from kgen.data.datasets.shards.listing import Listing
from kgen.data.datasets.shards.paths import Kind, find_shards
from kgen.data.datasets.shards.splits import split_files
from kgen.data.encoded import EncodedImages, Entries, Stamp
from kgen.data.encoded.captions import DEFAULT_TEMPLATE
from kgen.data.encoded.scan import scan
from kgen.errors import DataError

Source = Literal["captions", "classes", "template"]
"""Where the captions of a dataset are from; "template": all images have the same caption."""


class ShardImages(EncodedImages):
    """Images in shards. A subclass calls `_open_shards` with its `kind`, and overrides `_list` and `_read`."""

    kind: ClassVar[Kind]
    separator: ClassVar[str]
    """The text between the name of a shard and the name of an image in it."""

    caption_advice: ClassVar[str]
    """A sentence for messages that says where captions may be."""

    caption_key: str | None
    template: str

    @abstractmethod
    def _list(self, path: Path) -> Listing:
        """Lists the images of a shard. It is called from several threads. Raises OSError if it cannot be read."""

    @abstractmethod
    def _read(self, number: int, place: int, size: int) -> bytes:
        """Reads an image of a shard, after a call of `_check_shard`. Raises OSError if it cannot be read."""

    def _options(self) -> dict[str, Any]:
        """The options on which a listing depends, as plain data."""
        return {"owner": self.owner, "caption_key": self.caption_key}

    def _open_shards(self) -> None:
        """Lists the images of all shards, and opens the dataset. Raises DataError."""
        shards = find_shards(self.path, self.kind)
        splits = split_files(shards.names, self.owner, str(shards.root), shards.chosen)
        self._root = shards.root
        self._shards = shards.names
        self._times: list[Stamp | None] = [None] * len(shards.names)
        found = scan(range(len(shards.names)), self._listing, f"{self.owner} {self.path}", chunk=1, unit="shards")
        self._images: dict[str, tuple[int, int, int]] = {}
        entries: Entries = {"train": [], "validation": []}
        problems = [*shards.problems]
        labels: dict[str, str] = {}
        source = self._source(found)
        for number, (shard, listing) in enumerate(zip(shards.names, found, strict=True)):
            problems += [
                Problem(f"{shard}{self.separator}{name}" if name else shard, escaped(why))
                for name, why in listing.problems
            ]
            for index, image in enumerate(listing.names):
                name = f"{shard}{self.separator}{image}"
                captions, reason = self._captions_of(listing, index, source)
                if not captions:
                    problems.append(Problem(name, reason))
                    continue
                if source == "classes":
                    labels[name] = listing.labels[index]
                self._images[name] = (number, listing.places[index], listing.sizes[index])
                entries[splits[shard]] += [(name, caption) for caption in captions]
        self._open(entries, problems=problems, notes=self._describe(found, entries, source), labels=labels)

    def _encoded(self, name: str) -> bytes:
        return self._read(*self._images[name])

    def _check_shard(self, number: int, status: os.stat_result) -> None:
        """Raises OSError if a shard is no longer the one that was listed."""
        seen = self._times[number]
        if seen is None or Stamp.of(status)[:2] != seen[:2]:
            raise OSError("its shard has changed since it was opened")

    def _stamp(self, name: str) -> Stamp:
        number, _, size = self._images[name]
        stamp = self._times[number]
        if stamp is None:
            raise FileNotFoundError(self._shards[number])
        return stamp._replace(size=size)

    def _where(self, name: str) -> str:
        return str(self._root / name)

    def _path(self, number: int) -> Path:
        return self._root / self._shards[number]

    def _listing(self, number: int) -> Listing:
        """The images of a shard. They are from kgen's cache if the shard has not changed."""
        path = self._path(number)
        try:
            stamp = self._times[number] = Stamp.of(path.stat())
            if (stored := read_listing(path, stamp, self._options())) is not None:
                return stored
            listing = self._list(path)
        except OSError as error:
            return Listing(problems=[("", f"it cannot be read: {error.strerror or error}")])
        write_listing(path, stamp, self._options(), listing)
        return listing

    def _captions_of(self, listing: Listing, index: int, source: Source) -> tuple[list[str], str]:
        """The captions of an image, and the reason if it has none."""
        if source == "captions":
            return listing.captions[index], listing.reasons[index]
        label = listing.labels[index]
        if source == "classes" and not label:
            return [], "it has no class"
        return [self.template.replace("{label}", label)], ""

    def _source(self, found: Sequence[Listing]) -> Source:
        """Where the captions are from. Raises DataError if there are images, but no captions."""
        if any(captions for listing in found for captions in listing.captions):
            if all(listing.boxes for listing in found):
                raise DataError(
                    f"{self.owner}: the texts in {self.path} are the numbers of boxes, like YOLO's labels, not captions"
                )
            return "captions"
        if "{label}" not in self.template:
            return "template"
        images = [listing for listing in found if listing.names]
        if not images or any(label for listing in found for label in listing.labels):
            return "classes"
        where = f"{images[0].names[0]}: {images[0].reasons[0]}"
        raise DataError(
            f"{self.owner}: nothing in {self.path} says what the images show ({where}). {self.caption_advice}; or set "
            "template: an image, to give all images the same caption"
        )

    def _describe(self, found: Sequence[Listing], entries: Entries, source: Source) -> list[str]:
        """Lines that say how the shards were read."""
        sources = sorted({kind for listing in found for kind in listing.sources})
        origin = {
            "captions": f"captions are from {' and '.join(sources)}",
            "classes": "captions are made from the classes",
            "template": f"all captions are '{self.template}'",
        }[source]
        many = f"{len(found)} shards" if len(found) != 1 else "1 shard"
        lines = [f"{sum(len(listing.names) for listing in found):,} images in {many}; {origin}"]
        if source == "captions":
            lines += self._describe_captions(found)
        if entries["validation"]:
            train, validation = (len({name for name, _ in entries[split]}) for split in ("train", "validation"))
            lines.append(f"training uses {train:,} of the images, and validation uses {validation:,}")
        others: dict[str, tuple[int, str]] = {}
        for listing in found:
            for kind, (count, example) in listing.others.items():
                before, first = others.get(kind, (0, example))
                others[kind] = (before + count, first)
        lines += sorted({note for listing in found for note in listing.notes})
        if others:
            lines.append(f"files that kgen does not read: {describe_kinds(others)}")
        return [f"{self.owner} {self.path}: {line}" for line in lines]

    def _describe_captions(self, found: Sequence[Listing]) -> list[str]:
        lines = []
        if several := sum(len(captions) > 1 for listing in found for captions in listing.captions):
            lines.append(f"{several:,} of the images have several captions")
        if left_out := sum(listing.translations for listing in found):
            lines.append(f"{left_out} lines such as 'de.utf8=...' were left out, as translations of the first")
        if any(label for listing in found for label in listing.labels):
            lines.append("the classes are not used, because there are captions")
        if self.template != DEFAULT_TEMPLATE:
            lines.append("the option template is not used, because there are captions")
        return lines
