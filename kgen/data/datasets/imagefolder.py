"""Captioned images in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from kgen.contracts.dataset import Column, Dataset, Problem, Split, short_digest
from kgen.data.datasets.checked import Checked, read_checked, write_checked
from kgen.data.datasets.folder import CaptionsFrom, read_folder
from kgen.data.datasets.problems import OnError, refuse
from kgen.data.datasets.scan import scan
from kgen.data.datasets.splits import check_holdout, some
from kgen.data.images import ImageError, Resize, background_color, decode, fit
from kgen.errors import DataError
from kgen.spaces import Space

Entries = dict[Split, list[tuple[str, str]]]
"""Files and captions, by split."""


class ImageFolder(Dataset):
    """Images of many formats and modes, with captions from tables, text files or the names of folders.

    Every file is read once before training, so that no damaged file can stop the training later. kgen's cache remembers
    the files that could be read: a later start reads only those whose size or time of change is another. The images are
    decoded when they are needed. Symbolic links are followed. `kgen.data.datasets.folder.read_folder` documents the
    sources of captions and their order. An image with several captions makes several examples. If the captions are the
    names of folders, these are also the labels.

    Outermost folders named ``train`` (also ``training``, ``train2017``) and ``validation``, ``valid``, ``val``,
    ``dev``, ``test`` are splits. Images of ``train`` are for training, those of all others for validation. A column
    "split" of a table has the same effect.

    Args:
        path: The folder.
        size: Height and width of the images, in pixels.
        resize: How images become square: "crop" takes the middle, "pad" adds background, "stretch" distorts them.
        channels: Number of channels: 3, or 1 for gray.
        background: Color behind transparent parts, and around padded images.
        captions_from: Source of the captions: "tables" (metadata.jsonl, .csv and the like), "files" (NAME.txt beside
            NAME.png), "folders" (one per class), "none" (the same text for all images, for models that read no text),
            or "auto", which takes the first of "tables", "files" and "folders" that exists.
        caption_key: Key of the caption in tables and JSON files; null: "text", or the only one of "caption",
            "captions", "description", "prompt", "title", "comment".
        template: Caption with {label} in place of the name of a class folder.
        split_folders: Whether folders with the names above are splits; false: they are like all other folders.
        flip: Whether every training image is also used mirrored.
        validation: Share of the training images that is used for validation, if no folder or column defines a split.
        holdout: Captions to keep out of training and validation; they form the split "holdout".
        on_error: What to do about damaged images and missing captions: "refuse" to train, or "skip" them.

    Raises:
        DataError: there is nothing to train on; the captions are ambiguous; there is a problem that is not to be
            skipped; an option is wrong.
    """

    def __init__(
        self,
        *,
        path: Annotated[str, Field(min_length=1)],
        size: Annotated[int, Field(ge=4, le=4096)] = 64,
        resize: Resize = "crop",
        channels: Literal[1, 3] = 3,
        background: str = "white",
        captions_from: CaptionsFrom = "auto",
        caption_key: str | None = None,
        template: str = "{label}",
        split_folders: bool = True,
        flip: bool = False,
        validation: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        holdout: tuple[str, ...] = (),
        on_error: OnError = "refuse",
    ) -> None:
        self.path = path
        self.size = size
        self.resize = resize
        self.channels = channels
        self.background = background
        self.captions_from = captions_from
        self.caption_key = caption_key
        self.template = template
        self.split_folders = split_folders
        self.flip = flip
        self.validation = validation
        self.holdout = holdout
        self.on_error = on_error
        self._color = background_color(background, "imagefolder")
        if "{label}" not in template:
            raise DataError(f"imagefolder: template '{template}' must hold {{label}}")
        self._folder = Path(path).expanduser()
        found = read_folder(self._folder, captions_from, caption_key, template, split_folders)
        self._notes = found.notes
        self._labels = found.labels
        self.fields = (*Dataset.fields, "label") if found.labels else Dataset.fields
        self._digests, broken = self._verify([file for entries in found.entries.values() for file, _ in entries])
        self._problems = (*found.problems, *broken)
        good: Entries = {
            split: [entry for entry in entries if entry[0] in self._digests] for split, entries in found.entries.items()
        }
        refuse(self._problems, on_error, bool(good["train"]), "imagefolder", path)
        self._entries = self._split(good)
        self._captions = {split: [caption for _, caption in self._entries[split]] for split in self._entries}
        if flip:
            self._captions["train"] *= 2

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, self.channels))

    def captions(self, split: Split) -> Sequence[str]:
        return self._captions.get(split, ())

    def image(self, split: Split, index: int) -> np.ndarray:
        entries = self._entries[split]
        file = entries[index % len(entries)][0]
        try:
            pixels = self._read((self._folder / file).read_bytes())
        except (ImageError, OSError) as error:
            raise DataError(f"imagefolder: {self._folder / file} has changed since training began: {error}") from error
        return pixels[:, ::-1].copy() if index >= len(entries) else pixels

    def values(self, split: Split, field: str) -> Sequence[Any]:
        if field != "label" or not self._labels:
            return super().values(split, field)
        entries = self._entries.get(split, [])
        return Column(len(self.captions(split)), lambda index: self._labels[entries[index % len(entries)][0]])

    def notes(self) -> Sequence[str]:
        return self._notes

    def problems(self) -> Sequence[Problem]:
        return self._problems

    def fingerprint(self) -> str:
        """A digest of the captions, of the bytes of all files, and of the options that affect images."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for file in sorted(self._digests):
            digest.update(file.encode() + b"\0" + bytes.fromhex(self._digests[file]))
        return digest.hexdigest()[:16]

    def inventory(self) -> Mapping[str, tuple[str, str]]:
        captions: dict[str, list[str]] = {}
        for split, entries in self._entries.items():
            for file, caption in entries:
                captions.setdefault(file, []).append(f"{split}\0{caption}")
        return {
            file: (self._digests[file][:12], short_digest("\0".join(texts).encode()))
            for file, texts in captions.items()
        }

    def _read(self, data: bytes) -> np.ndarray:
        image = decode(data, self._color, size=self.size)
        return fit(image if self.channels == 3 else image.convert("L"), self.size, self.resize, self._color)

    def _verify(self, files: Sequence[str]) -> tuple[dict[str, str], list[Problem]]:
        """Decodes every file that is not remembered. Returns the digests of valid files, and the others' problems."""
        known = read_checked(self._folder)

        def look(file: str) -> Checked | Problem:
            path = f"{self._folder}/{file}"
            try:
                status = os.stat(path)  # noqa: PTH116 - faster, for millions of files
                if (before := known.get(file)) is not None and before.holds_for(status):
                    return before
                data = Path(path).read_bytes()
                decode(data, self._color, size=self.size)
            except (ImageError, OSError) as error:
                return Problem(file, str(error))
            return Checked(status.st_size, status.st_mtime_ns, status.st_ctime_ns, hashlib.sha256(data).hexdigest())

        different = list(dict.fromkeys(files))
        results = dict(zip(different, scan(different, look, f"imagefolder {self._folder}"), strict=True))
        good = {file: result for file, result in results.items() if isinstance(result, Checked)}
        if good != known:
            write_checked(self._folder, good)
        broken = [result for result in results.values() if isinstance(result, Problem)]
        return {file: result.digest for file, result in good.items()}, broken

    def _split(self, found: Entries) -> Entries:
        """Moves held-out captions from all splits to "holdout", and a share of the training images to validation."""
        if self.validation and found["validation"]:
            raise DataError(
                f"imagefolder: {self._folder} already defines a validation split: leave the option validation out, or "
                "give the training folder as path"
            )
        entries = [entry for split in found.values() for entry in split]
        check_holdout(self.holdout, {caption for _, caption in entries}, "imagefolder")
        held = [entry for entry in entries if entry[1] in self.holdout]
        unseen = {file for file, _ in held}  # an image may have other captions too
        seen = [entry for entry in found["train"] if entry[0] not in unseen]
        measured = some([file for file, _ in seen], self.validation)
        splits: Entries = {
            "train": [entry for entry in seen if entry[0] not in measured],
            "validation": [
                *(entry for entry in seen if entry[0] in measured),
                *(entry for entry in found["validation"] if entry[0] not in unseen),
            ],
            "holdout": held,
        }
        if not splits["train"]:
            raise DataError("imagefolder: holdout and validation leave no image to train on")
        return splits
