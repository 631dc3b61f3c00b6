"""The PNG files that `kgen generate` writes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kgen.errors import ConfigError
from kgen.storage.ownership import IMAGES, require_free

if TYPE_CHECKING:
    import numpy as np

LONGEST_SLUG = 50

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)")
"""Names of devices on Windows; what is written into a file of such a name is lost."""


class Output:
    """The files to write. They are checked before the model is loaded.

    Args:
        output: A PNG file, or a folder (an existing one, or a path that ends with a slash).
        captions: The caption of every image, such as its prompt.
        key: The key of the caption in the metadata.

    Raises:
        ConfigError: the path is no PNG and no folder, or there is a file that kgen did not make.
    """

    def __init__(self, output: str, captions: Sequence[str], key: str) -> None:
        self.path, self.captions, self.key = Path(output), captions, key
        self.is_folder = output.endswith(("/", os.sep)) or self.path.is_dir()
        if not self.is_folder and self.path.suffix.lower() != ".png":
            raise ConfigError(f"--output {output}: must end with '.png', or with '/' for a folder of files")
        names = (f"{index:04d}-{slug(caption)}.png" for index, caption in enumerate(captions))
        self.files = [self.path / name for name in names] if self.is_folder else [self.path]
        for file in self.files:
            require_free(file)
        from kgen.storage.files import writable_folder

        writable_folder(self.path if self.is_folder else self.path.parent)

    def write(
        self,
        images: np.ndarray,
        copies: Sequence[int],
        columns: int,
        facts: Mapping[str, str],
        scale: int | None = None,
    ) -> list[Path]:
        """Writes the images, uint8 (N, H, W, C), with their captions and `facts` in the metadata.

        Args:
            copies: Number of each image among those with its caption and seed.
            columns: Images per row of a grid; 0: a grid that is about square.
            scale: Factor by which each image is enlarged; None: no enlargement, or in a grid a suitable one.

        Returns:
            The files.
        """
        from kgen.reporting.sheets import enlarged, grid, save_png

        if not self.is_folder:
            sheet = enlarged(images[0], scale or 1)
            if len(images) > 1:
                sheet = grid(images, self.captions, columns=columns, scale=scale or 0)
                facts = {**facts, IMAGES: str(len(images))}
            save_png(self.path, sheet, {self.key: "; ".join(dict.fromkeys(self.captions)), **facts})
            return self.files
        for path, image, caption, copy in zip(self.files, images, self.captions, copies, strict=True):
            save_png(path, enlarged(image, scale or 1), {self.key: caption, **facts, "copy": str(copy)})
        return self.files


def slug(prompt: str) -> str:
    """A prompt as (part of) a file name that is valid on every system."""
    text = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:LONGEST_SLUG]
    return f"image-{text}" if RESERVED.fullmatch(text) else text or "image"
