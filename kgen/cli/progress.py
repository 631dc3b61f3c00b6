"""Shows a training as it goes on: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINES = 20
"""Lines that a whole training prints where there is no terminal."""


class Display:
    """A listener of the journal, and the voice of a run."""

    def __init__(self, total: int, console: Console, progress: Progress) -> None:
        self.total = total
        self.console = console
        self.progress = progress
        self.task = progress.add_task("training", total=total, numbers="")
        self.printed = 0

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        if "loss" in values:
            numbers = f"loss {values['loss']:.4f}, {values['images_per_second']:.0f} pictures/s"
        else:
            numbers = f"validation loss {values['val_loss']:.4f}"
        self.progress.update(self.task, completed=step, numbers=numbers)
        due = step - self.printed >= self.total / LINES or step == self.total or "val_loss" in values
        if not self.console.is_terminal and due:
            self.printed = step
            self.say(f"step {step}/{self.total}: {numbers}")


@contextmanager
def training_display(total: int) -> Iterator[Display]:
    """A display of a training of `total` steps, which ends with the block."""
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Display(total, console, progress)
