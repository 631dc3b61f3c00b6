"""The files of a comparison: tables in Markdown and CSV, a page, and plots."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kgen.comparison.facts import Table
from kgen.comparison.sweep import Trial, long_table, metric_names, plots, wide_table
from kgen.errors import ConfigError
from kgen.reporting.page import image, plot, render
from kgen.reporting.plain import printable
from kgen.storage.files import writable_folder, write_text

MARKDOWN, CSV, HTML, STEPS = "comparison.md", "comparison.csv", "comparison.html", "steps.csv"
IMAGES, INTERPOLATIONS = "images.png", "interpolations.png"

TITLE = "Comparison"

DIFFERENT = "Differences of the run files"

BEGINNING = 1024
"""Number of bytes at the beginning of a page that contain its title."""


@dataclass(frozen=True)
class Comparison:
    """The files of a comparison, and its table; `steps` is None if no steps were measured."""

    markdown: Path
    csv: Path
    html: Path
    steps: Path | None
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Findings:
    """The results of a comparison, except the images.

    Args:
        table: The facts, with one row per run.
        configuration: Keys of the run files that differ, with the value of each run.
        notes: The differences that make the runs less comparable.
        interpolated: The prompt of the interpolations; None: there are none.
        trials: The measurements of quality over time.
    """

    table: Table
    configuration: Mapping[str, Sequence[str]]
    notes: Sequence[str]
    interpolated: str | None
    trials: Sequence[Trial]


def claim(out: Path) -> None:
    """Creates the folder of a comparison, before anything is measured.

    Raises:
        ConfigError: the folder cannot be written to, or contains files of these names that are not from a comparison.
    """
    try:
        writable_folder(out)
    except OSError as error:
        raise ConfigError(f"--output {out}: cannot be written to: {error.strerror}") from error
    names = (MARKDOWN, CSV, HTML, STEPS, IMAGES, INTERPOLATIONS, *(path.name for path in out.glob("steps-*.svg")))
    foreign = [name for name in names if (out / name).exists() or (out / name).is_symlink()]
    if foreign and not _is_comparison(out / HTML):
        raise ConfigError(f"--output {out}: holds {', '.join(foreign)}, but no comparison: choose another folder")


def _is_comparison(path: Path) -> bool:
    """Whether a file is the page of a comparison."""
    try:
        with path.open("rb") as file:
            return f"<title>{TITLE} - kgen</title>".encode() in file.read(BEGINNING)
    except OSError:
        return False


def write_comparison(out: Path, found: Findings) -> Comparison:
    """Writes the tables and the page. The images must exist already."""
    svgs = plots(found.trials)
    steps = None
    if found.trials:
        for metric, svg in svgs.items():
            write_text(out / _plot_name(metric), svg)
        write_text(steps := out / STEPS, _csv(*long_table(found.trials)))
    head, rows = found.table.to_read()
    write_text(out / CSV, _csv(*found.table.to_compute()))
    write_text(out / MARKDOWN, _markdown(found))
    write_text(out / HTML, _html(out, found, svgs))
    return Comparison(out / MARKDOWN, out / CSV, out / HTML, steps, head, rows)


def _plot_name(metric: str) -> str:
    return f"steps-{re.sub(r'[^a-z0-9]+', '-', metric.lower()).strip('-')}.svg"


def _csv(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def _different(found: Findings) -> tuple[list[str], list[list[str]]]:
    """The head and rows of the table of keys that differ."""
    return ["key", *found.table.runs], [[key, *values] for key, values in found.configuration.items()]


def _markdown(found: Findings) -> str:
    lines = [*_markdown_table(*found.table.to_read()), *(f"{escape(note)}\n" for note in found.notes)]
    if found.configuration:
        lines += [f"## {DIFFERENT}\n", *_markdown_table(*_different(found))]
    lines.append(f"![Images of the same prompts and seed]({IMAGES})")
    if found.interpolated is not None:
        lines.append(f'\n![Interpolation between two noises: "{escape(found.interpolated)}"]({INTERPOLATIONS})')
    if found.trials:
        lines.append("\n## Quality over time\n")
        lines += [
            f"![{escape(name)} over seconds per image]({_plot_name(name)})\n" for name in metric_names(found.trials)
        ]
        lines += _markdown_table(*wide_table(found.trials))
    return "\n".join([*lines, ""])


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, followed by an empty line."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return [line(list(map(escape, head))), line(["---"] * len(head)), *(line(list(map(escape, r))) for r in rows), ""]


def escape(text: str) -> str:
    """Escapes a text for Markdown, on one line, because names and prompts may contain any characters."""
    text = html.escape(printable(" ".join(text.split())), quote=False)
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def _html(out: Path, found: Findings, svgs: Mapping[str, str]) -> str:
    """Renders the page.

    Args:
        out: The folder of the comparison.
        found: The results.
        svgs: The plots of metrics over time, by metric.
    """
    head, rows = found.table.to_read()
    return render(
        "comparison.html",
        title=TITLE,
        notes=found.notes,
        facts=list(zip(head, *rows, strict=True)),  # one column per run: there are fewer runs than facts
        different_title=DIFFERENT,
        different=_different(found) if found.configuration else None,
        images=image(out / IMAGES),
        interpolated=found.interpolated,
        interpolations=image(out / INTERPOLATIONS),
        trials=wide_table(found.trials) if found.trials else None,
        plots=[plot(svg, name) for name, svg in svgs.items()],
    )
