"""Shows the progress of a training or of an evaluation: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kgen.reporting.plain import printable

LINES = 20
"""Number of lines that a whole training, or a whole evaluation, prints if there is no terminal."""

QUIET = 500
"""Number of images up to which an evaluation prints no lines if there is no terminal."""


class ProgressReporter:
    """Prints the messages of a run and the progress of its trainings."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self.console = console
        self.progress = progress
        self.scoring = ScoringProgress(self)

    def log(self, text: str) -> None:
        self.console.print(printable(text), emoji=False, highlight=False, markup=False, soft_wrap=True)

    def on_metrics(self, name: str, total: int) -> TrainingProgress:
        """Shows another training of `total` steps; returns the function that takes its metrics."""
        return TrainingProgress(self, name, total)

    def on_images(self, done: int, total: int) -> None:
        """Shows how many images have been scored."""
        self.scoring.show(done, total)


class ScoringProgress:
    """Shows how many images have been scored."""

    def __init__(self, reporter: ProgressReporter) -> None:
        self.reporter = reporter
        self.task: TaskID | None = None
        self.printed = 0
        self.began = (0, time.monotonic())

    def show(self, done: int, total: int) -> None:
        """Updates the bar, or prints a line from time to time."""
        progress = self.reporter.progress
        if self.task is None:
            self.task = progress.add_task("scoring", total=total, numbers="images")
            self.began = (done, time.monotonic())
        progress.update(self.task, completed=done, total=total)
        if not self.reporter.console.is_terminal and total > QUIET and done - self.printed >= total / LINES:
            self.printed = done
            begun, then = self.began
            seconds = (time.monotonic() - then) / max(1, done - begun) * (total - done)
            left = f", {duration(seconds)} left" if done - begun > 0 and done < total else ""
            self.reporter.log(f"scored {done:,} of {total:,} images{left}")


class TrainingProgress:
    """Prints the metrics of one training."""

    def __init__(self, reporter: ProgressReporter, name: str, total: int) -> None:
        self.reporter = reporter
        self.name, self.total = name, total
        self.task = reporter.progress.add_task(name, total=total, numbers="")
        self.printed = 0
        self.first: tuple[int, float] | None = None

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        if "loss" in values:
            numbers = f"loss {values['loss']:.4f}, {values['images_per_second']:.0f} images/s"
        else:
            numbers = f"validation loss {values['val_loss']:.4f}"
        self.reporter.progress.update(self.task, completed=step, numbers=numbers)
        due = step - self.printed >= self.total / LINES or step == self.total or "val_loss" in values
        if not self.reporter.console.is_terminal and due:
            self.printed = step
            prefix = "" if self.name == "training" else f"{self.name} "
            self.reporter.log(f"{prefix}step {step}/{self.total}: {numbers}{self._left(step)}")

    def _left(self, step: int) -> str:
        """The remaining time, estimated from the time since the first row; "" if it is not known yet, or is zero."""
        now = time.monotonic()
        first, began = self.first = self.first or (step, now)
        if step in (first, self.total):
            return ""
        return f", {duration((now - began) / (step - first) * (self.total - step))} left"


def duration(seconds: float) -> str:
    """A readable time: "50 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Output(Console):
    """Prints to stdout. If the reader of stdout has closed it, later output is discarded.

    Args:
        required: Whether a closed stdout also raises BrokenPipeError, so that a training saves a checkpoint and ends.
            (rich's own method raises SystemExit, which ends a training without a checkpoint.)
    """

    def __init__(self, required: bool) -> None:
        super().__init__()
        self.required = required

    def on_broken_pipe(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        if self.required:
            raise BrokenPipeError


@contextmanager
def progress_reporter(required: bool = True) -> Iterator[ProgressReporter]:
    """Yields a reporter whose progress bars end with the block. See `Output` for the argument."""
    console = Output(required)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield ProgressReporter(console, progress)
