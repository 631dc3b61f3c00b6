"""Writes `report.html`, a self-contained page about a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kgen.config import RunConfig
from kgen.config.shortened import shortened
from kgen.config.source import to_yaml
from kgen.config.staged import STAGED
from kgen.errors import KgenError
from kgen.evaluation.meanings import OF_LEVELS, Meanings, column_name, of_columns, of_loss, of_scores, of_stage
from kgen.evaluation.proxy import ProxyScore, read_proxy_scores
from kgen.evaluation.results import Result, read_results
from kgen.experiments.directory import RunDirectory
from kgen.experiments.manifest import TRAINED, current_timings
from kgen.experiments.sections import ReportSection, read_sections, sections_folder, write_section
from kgen.pipeline.levels import read_columns
from kgen.reporting.digits import few_digits, with_error
from kgen.reporting.page import Figure, image, plot, render
from kgen.reporting.plot import Line, line_plot
from kgen.storage.files import write_text
from kgen.training.callbacks import OF_OPTIMIZER
from kgen.training.journal import read_rows

MAX_GRIDS = 8

MAX_SKIPPED = 10

INPUT_WAIT = "waiting for input (a part of training)"


def write_report(directory: RunDirectory, credit: str) -> None:
    """Writes the page from the files in the run directory.

    Args:
        directory: The run directory.
        credit: The credit line that the license of the images requires.
    """
    manifest, rows = directory.read_manifest(*TRAINED), read_rows(directory.metrics)
    timings = _timings(directory, manifest["timings"]) | _input_wait(rows)
    stages = _stages(directory)
    page = render(
        "run.html",
        title=manifest["name"],
        manifest=manifest,
        final=image(directory.final_grid, "images after the last step"),
        scores=_scores(read_results(directory.evaluation)),
        notes=manifest.get("notes_on_scores", []),
        proxy=_proxy(read_proxy_scores(directory.proxy)),
        sections=_sections(directory),
        stages=stages,
        loss=_loss(rows),
        details=_details(rows),
        samples=_over_time(directory),
        parts=[
            (kind, part["id"], f"{part['distribution']} {part['version']}")
            for kind, part in manifest["components"].items()
        ],
        skipped=manifest["data"].get("skipped", []),
        most_skipped=MAX_SKIPPED,
        timings=list(timings.items()),
        longest=max(timings.values(), default=0.0),
        speeds=_speeds(rows),
        meanings=_meanings(directory, manifest["components"], stages),
        short_config=_short_config(directory),
        config=directory.config.read_text(encoding="utf-8"),
        credit=credit,
    )
    write_text(directory.report, page)


def add_to_report(path: str | Path, name: str, section: ReportSection, credit: str) -> None:
    """Adds a section to the report of a run, in place of an older one of this name.

    If the run has no report yet, its end writes one with the section.

    Args:
        path: The run directory.
        name: The name of the section's file: small letters, digits and hyphens.
        section: The section. Its images are already in the folder `sections` of the run.
        credit: The credit line that the license of the images requires: `Dataset.credit`.

    Raises:
        ConfigError: the name has other characters.
        RunError: this is not a run, or another process works on it.
    """
    directory = RunDirectory(path)
    directory.require_run()
    with directory.locked():
        write_section(directory, name, section)
        if directory.report.is_file():
            write_report(directory, credit)


def _short_config(directory: RunDirectory) -> str:
    """The keys of the run file that differ from the defaults; "" if a plugin is missing here."""
    try:
        return to_yaml(shortened(RunConfig.load(directory.config)))
    except KgenError:
        return ""


def _sections(directory: RunDirectory) -> list[dict[str, Any]]:
    """The sections of plugins, with their images."""
    folder = sections_folder(directory)
    return [
        {"section": section, "images": [image(folder / file, text) for file, text in section.images.items()]}
        for section in read_sections(directory)
    ]


def _scores(results: Sequence[Result]) -> list[tuple[str, str, str, str]]:
    """The split, the name, the mean with its standard error, and the number of images of each result."""
    return [
        (result.split, result.title, with_error(result.mean, result.standard_error), _images(result))
        for result in results
    ]


def _images(result: Result) -> str:
    images = result.protocol.get("images", "")
    return f"{images:,}" if isinstance(images, int) else str(images)


def _proxy(scores: Sequence[ProxyScore]) -> list[Figure]:
    """A plot of each score over the steps of the training."""
    figures = []
    for metric in dict.fromkeys(score.metric for score in scores):
        own = [score for score in scores if score.metric == metric and math.isfinite(score.value)]
        lines = [
            Line(split, [(score.step, score.value) for score in own if score.split == split])
            for split in dict.fromkeys(score.split for score in own)
        ]
        if lines:
            most = max(score.images for score in own)
            figures.append(plot(line_plot(lines, "step", metric), f"{metric} of at most {most:,} images per split"))
    return figures


def _stages(directory: RunDirectory) -> list[dict[str, Any]]:
    """The results of the trainings of encoder and decoder, of those that have their own."""
    found = []
    for kind in STAGED:
        stage = directory.stage(kind)
        if not stage.read_manifest().get("finished"):
            continue
        manifest = stage.read_manifest("scores", "timings")
        scores = {**manifest["scores"], "training seconds": manifest["timings"]["training_seconds"]}
        found.append(
            {
                "part": kind,
                "final": image(stage.final_grid, "after the last step"),
                "scores": [(name, few_digits(v) if isinstance(v, int | float) else v) for name, v in scores.items()],
                "loss": _loss(read_rows(stage.metrics)),
                "details": _details(read_rows(stage.metrics)),
                "samples": _over_time(stage),
            }
        )
    return found


def _timings(directory: RunDirectory, timings: Mapping[str, float]) -> dict[str, float]:
    """The seconds of each part of the run: the trainings of encoder and decoder, then those in the manifest."""
    trained = [kind for kind in STAGED if directory.stage(kind).read_manifest().get("finished")]
    stages = {
        f"training of the {kind}": directory.stage(kind).read_manifest("timings")["timings"]["training_seconds"]
        for kind in trained
    }
    return stages | {name.replace("_seconds", ""): value for name, value in current_timings(timings).items()}


def _meanings(
    directory: RunDirectory, components: Mapping[str, Mapping[str, str]], stages: Sequence[Mapping[str, Any]]
) -> Meanings:
    """A sentence about each number that the page shows, by its name."""
    rows, found = read_rows(directory.metrics), dict(of_scores(read_results(directory.evaluation)))
    levels = read_columns(list(rows[0]) if rows else [])
    for kind, scores in ((stage["part"], dict(stage["scores"])) for stage in stages):
        name = components[kind]["id"]
        found |= {**of_stage(kind, name, scores), **of_loss(kind, name)}
        rows += read_rows(directory.stage(kind).metrics)
    found |= of_loss("generator", components["generator"]["id"])
    found |= of_columns({column for row in rows for column, value in row.items() if value})
    return found | {f"loss over {level.replace('_', ' ')}": OF_LEVELS for level in levels}


def _over_time(directory: RunDirectory) -> list[Figure]:
    """Up to MAX_GRIDS sample grids of the training, evenly over time.

    Grids of the weights without EMA are only used if there are no others.
    """
    paths = sorted(directory.samples.glob("step-*.png"))
    paths = [path for path in paths if not path.stem.endswith("-raw")] or paths
    if len(paths) > MAX_GRIDS:
        paths = [paths[round(i * (len(paths) - 1) / (MAX_GRIDS - 1))] for i in range(MAX_GRIDS)]
    return [shown for path in paths if (shown := image(path, _caption(path)))]


def _caption(path: Path) -> str:
    """The caption of a grid: "step 500, weights without EMA" for "step-00000500-raw.png"."""
    _, step, *raw = path.stem.split("-")
    return f"step {int(step):,}" + (", weights without EMA" if raw else "") if step.isdecimal() else path.stem


def _input_wait(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """The part of the training time in which it waited for batches, in seconds; empty if no row says it."""
    waits, last = [], 0
    for row in rows:
        if wait := row.get("input_wait"):
            waits.append(float(wait) * (int(row["step"]) - last))
            last = int(row["step"])
    return {INPUT_WAIT: round(sum(waits), 1)} if waits else {}


def _speeds(rows: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Medians over the rows, in images per second: the training, and the loader while it reads (see `Log`)."""
    columns = {"the training": "images_per_second", "the loader alone": "input_images_per_second"}
    found = {name: [float(row[column]) for row in rows if row.get(column)] for name, column in columns.items()}
    return [(name, f"{statistics.median(values):,.0f}") for name, values in found.items() if values]


def _loss(rows: Sequence[Mapping[str, str]]) -> Figure | None:
    """A plot of the loss and the validation loss over the steps; None if there are no losses."""
    lines = [Line(column_name(name), points) for name in ("loss", "val_loss") if (points := _points(rows, name))]
    return plot(line_plot(lines, "step", "loss"), "loss over steps") if lines else None


def _details(rows: Sequence[Mapping[str, str]]) -> list[Figure]:
    """Plots of the loss by level, and of what the optimizer does over the steps."""
    figures = [_by_level(rows, name, columns) for name, columns in read_columns(list(rows[0]) if rows else []).items()]
    for column in OF_OPTIMIZER:
        name, points = column_name(column), _points(rows, column)
        if points:
            figures.append(plot(line_plot([Line(name, points)], "step", name), f"{name} over steps"))
    return [figure for figure in figures if figure is not None]


def _by_level(
    rows: Sequence[Mapping[str, str]], name: str, columns: Mapping[str, tuple[float, float]]
) -> Figure | None:
    """A plot of the loss over the noise level, or over the position, in the first, middle and last third of the steps.

    Args:
        rows: The rows of the journal.
        name: The name of the level.
        columns: The range of the levels of each column.
    """
    rows, lines = [row for row in rows if row.get("loss")], list[Line]()
    for number in range(3):
        start = len(rows) * number // 3
        part = rows[start : len(rows) * (number + 1) // 3]
        means = {column: [y for _, y in _points(part, column)] for column in columns}
        points = [((low + high) / 2, statistics.mean(means[c])) for c, (low, high) in columns.items() if means[c]]
        if points:
            before = int(rows[start - 1]["step"]) if start else 0
            lines.append(Line(f"steps {before + 1:,} to {int(part[-1]['step']):,}", points))
    low, high = min(low for low, _ in columns.values()), max(high for _, high in columns.values())
    label = f"{name.replace('_', ' ')} in [{low:g}, {high:g}]"
    return plot(line_plot(lines, label, "loss"), f"loss over {label}") if lines else None


def _points(rows: Sequence[Mapping[str, str]], column: str) -> list[tuple[float, float]]:
    """The finite numbers in a column, each with its step."""
    found = [(float(row["step"]), float(row.get(column) or "nan")) for row in rows]
    return [point for point in found if math.isfinite(point[1])]
