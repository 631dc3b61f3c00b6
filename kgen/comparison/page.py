"""The files of a comparison: tables in Markdown and CSV, a page, and plots."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kgen.comparison.facts import MEANINGS, Table
from kgen.comparison.steps import SECONDS, Measurement, long_table, metric_names, plots, wide_table
from kgen.errors import ConfigError
from kgen.evaluation.meanings import Meanings
from kgen.reporting.page import image, plot, render
from kgen.reporting.tables import csv_text, escape, markdown_table
from kgen.storage.files import writable_folder, write_text

MARKDOWN, CSV, HTML, STEPS = "comparison.md", "comparison.csv", "comparison.html", "steps.csv"
IMAGES, INTERPOLATIONS = "images.png", "interpolations.png"

TITLE = "Comparison"

DIFFERENT = "Differences of the run files"

BEGINNING = 1024
"""Number of bytes at the beginning of a page that contain its title."""


@dataclass(frozen=True)
class Comparison:
    """The files of a comparison, its table and its notes; `steps` is None if no steps were measured."""

    markdown: Path
    csv: Path
    html: Path
    steps: Path | None
    head: list[str]
    rows: list[list[str]]
    notes: Sequence[str]


@dataclass(frozen=True)
class Findings:
    """The results of a comparison, except the images.

    Args:
        table: The facts, with one row per run.
        configuration: Keys of the run files that differ, with the value of each run.
        notes: The differences that make the runs less comparable.
        interpolated: The prompt of the interpolations; None: there are none.
        measured: The measurements of quality over time.
        meanings: What the scores are.
    """

    table: Table
    configuration: Mapping[str, Sequence[str]]
    notes: Sequence[str]
    interpolated: str | None
    measured: Sequence[Measurement]
    meanings: Meanings


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
    svgs = plots(found.measured)
    steps = None
    if found.measured:
        for metric, svg in svgs.items():
            write_text(out / _plot_name(metric), svg)
        write_text(steps := out / STEPS, csv_text(*long_table(found.measured)))
    head, rows = found.table.to_read()
    write_text(out / CSV, csv_text(*found.table.to_compute()))
    write_text(out / MARKDOWN, _markdown(found))
    write_text(out / HTML, _html(out, found, svgs))
    return Comparison(out / MARKDOWN, out / CSV, out / HTML, steps, head, rows, found.notes)


def _plot_name(metric: str) -> str:
    return f"steps-{re.sub(r'[^a-z0-9]+', '-', metric.lower()).strip('-')}.svg"


def _different(found: Findings) -> tuple[list[str], list[list[str]]]:
    """The head and rows of the table of keys that differ."""
    return ["key", *found.table.runs], [[key, *values] for key, values in found.configuration.items()]


def _markdown(found: Findings) -> str:
    lines = [*markdown_table(*found.table.to_read()), *(f"{escape(note)}\n" for note in found.notes)]
    if found.configuration:
        lines += [f"## {DIFFERENT}\n", *markdown_table(*_different(found))]
    lines.append(f"![Images of the same prompts and seed]({IMAGES})")
    if found.interpolated is not None:
        lines.append(f'\n![Interpolation between two noises: "{escape(found.interpolated)}"]({INTERPOLATIONS})')
    if found.measured:
        lines.append("\n## Quality over time\n")
        lines += [
            f"![{escape(name)} over seconds per image]({_plot_name(name)})\n" for name in metric_names(found.measured)
        ]
        lines += markdown_table(*wide_table(found.measured))
    return "\n".join([*lines, ""])


def _html(out: Path, found: Findings, svgs: Mapping[str, str]) -> str:
    """Renders the page.

    Args:
        out: The folder of the comparison.
        found: The results.
        svgs: The plots of metrics over time, by metric.
    """
    head, rows = found.table.to_read()
    shown = {*found.table.keys, *([SECONDS] if found.measured else [])}
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
        measured=wide_table(found.measured) if found.measured else None,
        plots=[plot(svg, name) for name, svg in svgs.items()],
        meanings={**{key: text for key, text in MEANINGS.items() if key in shown}, **found.meanings},
    )
