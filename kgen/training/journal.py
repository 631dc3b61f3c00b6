"""The numbers of a training, as they come: `metrics.csv` and TensorBoard event files."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from kgen.errors import RunError
from kgen.storage.files import disk_space, write_text

Listener = Callable[[int, Mapping[str, float]], None]

NO_TENSORFLOW = "tensorboard.compat.notf"
"""With a module of this name, TensorBoard writes files by itself. Else it imports TensorFlow, if that is installed,
which takes seconds and memory on another backend."""


class Journal:
    """Appends rows to `metrics.csv` and scalars to `tensorboard/` of a run directory.

    Args:
        folder: The run directory.
        columns: Names that may be written, beside "step" and "seconds".
        start: Rows of later steps, left by a process that died after its last checkpoint, are dropped.
        listener: Is told of every row (a progress bar).
    """

    def __init__(self, folder: Path, columns: Sequence[str], start: int, listener: Listener | None = None) -> None:
        self.path = folder / "metrics.csv"
        self.columns = ["step", "seconds", *columns]
        self.listener = listener
        rows = [row for row in read_rows(self.path) if int(row["step"]) <= start]
        self._spent = max((float(row["seconds"]) for row in rows), default=0.0)
        self._began = time.perf_counter()
        write_text(self.path, "\n".join([",".join(self.columns), *(self._line(row) for row in rows), ""]))
        if "tensorflow" not in sys.modules:
            sys.modules.setdefault(NO_TENSORFLOW, ModuleType(NO_TENSORFLOW))
        self._events = EventFileWriter(str(folder / "tensorboard"))

    @property
    def seconds(self) -> float:
        """Time spent on training, over all processes of the run."""
        return self._spent + time.perf_counter() - self._began

    def write(self, step: int, values: Mapping[str, float]) -> None:
        row = {"step": str(step), "seconds": f"{self.seconds:.2f}", **{k: f"{v:.7g}" for k, v in values.items()}}
        line = self._line(row) + "\n"
        with disk_space(self.path, len(line)), self.path.open("a", encoding="utf-8") as file:
            file.write(line)
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        if self.listener:
            self.listener(step, values)

    def image(self, step: int, name: str, png: bytes, size: tuple[int, int]) -> None:
        """Adds an image, (width, height) in pixels, to TensorBoard."""
        image = Summary.Image(width=size[0], height=size[1], encoded_image_string=png)
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        self._events.close()

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
