"""Records the metrics of a training: always in `metrics.csv`, and with the loggers of the run."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kgen.contracts.logger import Stage
from kgen.errors import RunError
from kgen.storage.files import disk_space, write_text
from kgen.training.loggers import Loggers

Listener = Callable[[int, Mapping[str, float]], None]


class Journal:
    """Appends rows to `metrics.csv` of a training, and passes them to the loggers.

    Args:
        folder: The run directory.
        columns: Names of the columns, besides "step" and "seconds".
        start: The step at which the training continues. Rows of later steps, which a process wrote after its last
            checkpoint before it was killed, are dropped.
        listener: Function that is called with the step and the values of every row, such as a progress bar.
        loggers: The loggers, which record every row, and images.
        stage: The name of the training, for the loggers.
    """

    def __init__(
        self,
        folder: Path,
        columns: Sequence[str],
        start: int,
        listener: Listener | None = None,
        loggers: Loggers | None = None,
        stage: Stage = "generator",
    ) -> None:
        self.path = folder / "metrics.csv"
        self.columns = ["step", "seconds", *columns]
        self.listener = listener
        self.loggers, self.stage = loggers or Loggers(), stage
        rows = [row for row in read_rows(self.path) if int(row["step"]) <= start]
        self._spent = max((float(row["seconds"]) for row in rows), default=0.0)
        self._began = time.perf_counter()
        write_text(self.path, "\n".join([",".join(self.columns), *(self._line(row) for row in rows), ""]))
        self.loggers.resume(stage, start)

    @property
    def seconds(self) -> float:
        """Time spent on training, over all processes of the run."""
        return self._spent + time.perf_counter() - self._began

    def write(self, step: int, values: Mapping[str, float]) -> None:
        row = {"step": str(step), "seconds": f"{self.seconds:.2f}", **{k: f"{v:.7g}" for k, v in values.items()}}
        line = self._line(row) + "\n"
        with disk_space(self.path, len(line)), self.path.open("a", encoding="utf-8") as file:
            file.write(line)
        self.loggers.log(self.stage, step, values)
        if self.listener:
            self.listener(step, values)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Passes an image, uint8 (H, W, C), to the loggers."""
        self.loggers.image(self.stage, step, name, image)

    def _line(self, row: Mapping[str, str]) -> str:
        return ",".join(row.get(name, "") for name in self.columns)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv`: "step" is a whole number, the others are numbers or empty.

    A last line that was cut off is left out.

    Raises:
        RunError: the file is damaged; with the line.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
    except (csv.Error, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    for line, row in enumerate(rows, start=2):
        try:
            int(row["step"]), [float(value or "nan") for name, value in row.items() if name != "step"]
            float(row["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged: line {line}: {error}") from error
    return rows
