"""The files of a sweep: the table in CSV and Markdown, the plots, and a page with everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kgen.config.source import to_yaml
from kgen.evaluation.meanings import of_scores
from kgen.evaluation.results import Result
from kgen.reporting.page import plot, render
from kgen.reporting.tables import csv_text, escape, markdown_table
from kgen.storage.files import write_text
from kgen.studies.study import Study
from kgen.studies.trials import Trial
from kgen.sweeps.directory import SweepDirectory
from kgen.sweeps.plots import file_names, make_plots
from kgen.sweeps.table import Table, to_compute


def write_files(
    directory: SweepDirectory,
    study: Study,
    table: Table,
    trials: Sequence[tuple[Trial, Sequence[Result] | None]],
    failures: Mapping[str, str],
) -> None:
    """Writes the table, the plots and the page.

    Args:
        directory: The folder.
        study: The study.
        table: The table.
        trials: The trials, with their results.
        failures: The text about each failure, by name.
    """
    plots = make_plots(table, *study.plots)
    files = file_names(plots)
    directory.write_plots({files[title]: svg for title, svg in plots.svgs.items()})
    long = to_compute(study.axes, [(trial.name, trial.values, results) for trial, results in trials])
    write_text(directory.csv, csv_text(*long))
    missing = sum(results is None for _, results in trials)
    notes = [*_summary(study, trials, missing), *table.notes, *plots.notes]
    failed = [(name, text.splitlines()[0]) for name, text in failures.items()]
    lines = [f"# Sweep {escape(study.name)}\n", *markdown_table(*table.to_read()), *(f"{escape(n)}\n" for n in notes)]
    lines += [f"![{escape(title)}]({file})\n" for title, file in files.items()]
    if failed:
        lines += ["## Failures\n", *markdown_table(["name", "reason"], [list(each) for each in failed])]
    write_text(directory.markdown, "\n".join(lines))
    page = render(
        "sweep.html",
        title=f"Sweep {study.name}",
        notes=notes,
        table=table.to_read(),
        plots=[plot(svg, title) for title, svg in plots.svgs.items()],
        failures=failed,
        study=to_yaml(study.dump()),
        meanings=of_scores([result for _, results in trials for result in results or ()]),
    )
    write_text(directory.page, page)


def _summary(study: Study, trials: Sequence[tuple[Trial, object]], missing: int) -> list[str]:
    """Sentences that say what the numbers of the table are."""
    seeds = max((len(axis.values) for axis in study.axes if axis.repeats), default=1)
    evaluated = max((trial.config.evaluate.seeds for trial, _ in trials), default=1)
    notes = []
    if seeds > 1:
        notes.append(f"Numbers are means over {seeds} trainings with different seeds, with standard errors.")
    elif evaluated > 1:
        notes.append(f"Numbers are means over {evaluated} seeds of the evaluation, with standard errors.")
    if missing:
        notes.append(f"{missing} of {len(trials)} trials are not finished.")
    return notes
