"""What a training makes besides weights and losses: sheets of images, and scores.

Both know what they have made. A training that continues makes what is missing, because its checkpoint came first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kgen.training.journal import Journal


@dataclass(frozen=True)
class Sheets:
    """Sheets of images, `step-NNNNNNNN.png` in a folder.

    Args:
        folder: The folder.
        name: The name of the images, for loggers.
        draw: Writes a sheet of new images to a file, and returns it.
    """

    folder: Path
    name: str
    draw: Callable[[Path], Any]

    def __call__(self, step: int, suffix: str, journal: Journal) -> None:
        """Draws a sheet after a step. The suffix is that of the file's name, such as "-raw"."""
        sheet = self.draw(self._file(step, suffix))
        journal.image(step, f"{self.name}{suffix}", np.asarray(sheet))

    def has(self, step: int, suffix: str) -> bool:
        """Whether the sheet of a step exists."""
        return self._file(step, suffix).is_file()

    def _file(self, step: int, suffix: str) -> Path:
        return self.folder / f"step-{step:08d}{suffix}.png"


class StepScores(Protocol):
    """Scores of a model after some of its steps, in a file."""

    def __call__(self, step: int, journal: Journal) -> None:
        """Scores the model after a step."""

    def has(self, step: int) -> bool:
        """Whether the file has the scores of a step."""
