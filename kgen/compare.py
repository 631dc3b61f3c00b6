"""Puts trained runs side by side: what they cost, how likely they find pictures, and what they draw."""

from __future__ import annotations

import csv
import html
import io
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kgen.config import RunConfig
from kgen.errors import ConfigError
from kgen.files import write_text
from kgen.images import matrix, save_png
from kgen.inputs import read_dataset
from kgen.manifest_file import TRAINED
from kgen.page import page, picture, table
from kgen.pipeline import Pipeline
from kgen.rundir import RunDirectory
from kgen.saving import load
from kgen.scoring import BITS, in_split, prompts_to_draw
from kgen.sweep import Trial, long_table, plots, seconds_a_picture, section, sweep, wide_table
from kgen.training.journal import read_rows

MOST_PROMPTS = 8

WAY = 8
"""Pictures from one noise to another."""


@dataclass(frozen=True)
class Comparison:
    """Where a comparison lies, and its table; `steps` is None where none were asked for."""

    markdown: Path
    csv: Path
    html: Path
    steps: Path | None
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class _Run:
    """One run, and what was measured of it."""

    name: str
    facts: dict[str, str]
    pictures: np.ndarray  # (prompts, H, W, C)
    way: np.ndarray | None  # (WAY, H, W, C)


def compare(
    paths: Sequence[Path],
    out: Path,
    *,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
    steps: Sequence[int] = (),
    say: Callable[[str], None] = print,
) -> Comparison:
    """Measures finished runs, and writes `comparison.md`, `.csv`, `.html`, `pictures.png` and `interpolations.png`; of
    numbers of steps also `steps.csv`, and a plot for each metric.

    Args:
        paths: Run directories.
        out: The folder to write into.
        prompts: What to draw; some of what the first run drew by default.
        seed: Of the noise, the same for all.
        steps: To draw each run's evaluation prompts with, for quality against time; none: that is not measured.

    Raises:
        RunError: a directory holds no finished run. ConfigError: their pictures are not of one size; `steps` are given,
            but a run has no metric.
    """
    directories = [RunDirectory(path) for path in paths]
    for directory in directories:
        directory.require_run()
    names = _names(directories)
    configs = [RunConfig.load(directory.config) for directory in directories]
    if steps:
        _require_metrics(names, configs)
    if prompts is None:
        drawn = prompts_to_draw(configs[0], read_dataset(configs[0].data))
        prompts = [drawn[int(i)] for i in np.linspace(0, len(drawn) - 1, min(MOST_PROMPTS, len(drawn)))]
    runs: list[_Run] = []
    trials: list[Trial] = []
    notes = _notes(directories, names)
    for name, directory, config in zip(names, directories, configs, strict=True):
        say(f"measuring {name}")
        pipeline = load(directory.model)
        runs.append(_measure(name, directory, config, pipeline, prompts, seed))
        if steps:
            made = sweep(name, pipeline, config, steps, say)
            trials += made.trials
            notes += made.notes
    if len({run.pictures.shape for run in runs}) > 1:
        sizes = ", ".join(f"{run.name}: {'x'.join(map(str, run.pictures.shape[1:]))}" for run in runs)
        raise ConfigError(f"these runs draw pictures of different sizes: {sizes}")
    return _write(out, runs, trials, prompts, notes)


def _names(directories: Sequence[RunDirectory]) -> list[str]:
    """The directories' names, or whole paths where two are called the same."""
    names = [directory.path.resolve().name for directory in directories]
    return names if len(set(names)) == len(names) else [str(directory.path) for directory in directories]


def _require_metrics(names: Sequence[str], configs: Sequence[RunConfig]) -> None:
    without = [name for name, config in zip(names, configs, strict=True) if not config.evaluate.metrics]
    if without:
        raise ConfigError(
            f"quality over steps needs a metric, but {', '.join(without)} has none: name one under 'evaluate: "
            "metrics:' of its config.yaml, or leave the steps out"
        )


def _measure(
    name: str, directory: RunDirectory, config: RunConfig, pipeline: Pipeline, prompts: Sequence[str], seed: int
) -> _Run:
    drawing = config.sample.options
    pictures = pipeline.generate(prompts, seed=seed, **drawing)
    try:
        way = pipeline.interpolate(prompts[0], count=WAY, seeds=(seed, seed + 1), **drawing)
    except ConfigError:  # no noise that could be interpolated
        way = None
    return _Run(name, _facts(directory, config, pipeline), pictures, way)


def _facts(directory: RunDirectory, config: RunConfig, pipeline: Pipeline) -> dict[str, str]:
    manifest, drawing = directory.read_manifest(*TRAINED), config.sample.options
    speeds = [float(row["images_per_second"]) for row in read_rows(directory.metrics) if row.get("images_per_second")]
    weights = sum(int(np.prod(variable.shape)) for variable in pipeline.trainable_variables)
    scores = _scores(directory)
    bits = scores.pop(BITS, None)
    return {
        "generator": manifest["components"]["generator"]["id"],
        "parameters": f"{weights:,}",
        "training steps": str(manifest["step"]),
        "training s": f"{manifest['timings']['training_seconds']:.0f}",
        "pictures/s trained": f"{statistics.median(speeds):.0f}" if speeds else "",
        "pictures/s drawn": f"{1 / seconds_a_picture(pipeline, drawing):.0f}",
        "steps to draw": str(pipeline.generator.drawing_steps(**drawing)),
        "bits/dim": "" if bits is None else f"{bits:.3f}",
        "likelihood": pipeline.generator.likelihood_label(**config.evaluate.likelihood.options),
        **{key: f"{value:.3f}" for key, value in scores.items()},
        "peak MiB": str(manifest.get("peak_memory_mib", "")),
    }


def _scores(directory: RunDirectory) -> dict[str, float]:
    """What the run scored; a name says the split, unless it is that of the training."""
    if not directory.evaluation.is_file():
        return {}
    found = directory.read_scores()
    return {
        name if name == BITS else in_split(name, split): value
        for split, scores in found.items()
        for name, value in scores.items()
    }


def _notes(directories: Sequence[RunDirectory], names: Sequence[str]) -> list[str]:
    """What keeps the runs from being comparable."""
    manifests = [directory.read_manifest(*TRAINED) for directory in directories]
    notes = []
    for what, values in (
        ("pictures or captions", [m["data"]["fingerprint"] for m in manifests]),
        ("encoder", [m["components"]["encoder"]["id"] for m in manifests]),
        ("backend", [m["software"]["backend"] for m in manifests]),
    ):
        if len(set(values)) > 1:
            listed = ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
            notes.append(f"Not the same {what} in all runs ({listed}).")
    return notes


def _write(
    out: Path, runs: Sequence[_Run], trials: Sequence[Trial], prompts: Sequence[str], notes: Sequence[str]
) -> Comparison:
    out.mkdir(parents=True, exist_ok=True)
    keys = list(dict.fromkeys(key for run in runs for key in run.facts))
    keys.append(keys.pop(keys.index("peak MiB")))
    head, rows = ["run", *keys], [[run.name, *(run.facts.get(key, "") for key in keys)] for run in runs]
    pictures, ways = out / "pictures.png", out / "interpolations.png"
    metadata = {"prompt": "; ".join(prompts), "model": ", ".join(run.name for run in runs)}
    save_png(pictures, matrix([run.pictures for run in runs], [run.name for run in runs], prompts), metadata)
    movers = [run for run in runs if run.way is not None]
    if movers:
        sheet = matrix([run.way for run in movers if run.way is not None], [run.name for run in movers])
        save_png(ways, sheet, {**metadata, "prompt": prompts[0]})
    steps = _write_steps(out, trials) if trials else None
    made = Comparison(out / "comparison.md", out / "comparison.csv", out / "comparison.html", steps, head, rows)
    write_text(made.csv, _csv(head, rows))
    write_text(made.markdown, _markdown(head, rows, notes, prompts[0] if movers else None, trials))
    write_text(made.html, _html(head, rows, notes, pictures, ways if movers else None, prompts[0], trials))
    return made


def _write_steps(out: Path, trials: Sequence[Trial]) -> Path:
    for metric, svg in plots(trials).items():
        write_text(out / _plot_name(metric), svg + "\n")
    write_text(out / "steps.csv", _csv(*long_table(trials)))
    return out / "steps.csv"


def _plot_name(metric: str) -> str:
    return f"steps-{re.sub(r'[^a-z0-9]+', '-', metric.lower()).strip('-')}.svg"


def _csv(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def _markdown(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    moved: str | None,
    trials: Sequence[Trial],
) -> str:
    lines = [*_markdown_table(head, rows), *(f"{note}\n" for note in notes)]
    lines.append("![Pictures of the same prompts and seed](pictures.png)")
    if moved is not None:
        lines.append(f'\n![From one noise to another: "{moved}"](interpolations.png)')
    if trials:
        lines.append("\n## Quality against time\n")
        lines += [f"![{metric} over the time a picture takes]({_plot_name(metric)})\n" for metric in plots(trials)]
        lines += _markdown_table(*wide_table(trials))
    return "\n".join([*lines, ""])


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Its lines, with an empty one after."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), line(["---"] * len(head)), *map(line, rows), ""]


def _html(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    pictures: Path,
    ways: Path | None,
    prompt: str,
    trials: Sequence[Trial],
) -> str:
    turned = list(zip(head, *rows, strict=True))  # a run a column: there are fewer of them
    body = [
        "<h1>Comparison</h1>",
        *(f'<p class="quiet">{html.escape(note)}</p>' for note in notes),
        table(turned[0], turned[1:]),
        "<h2>The same prompts, the same seed</h2>",
        picture(pictures),
    ]
    if ways is not None:
        body += [f"<h2>From one noise to another: {html.escape(prompt)}</h2>", picture(ways)]
    if trials:
        body.append(section(trials))
    return page("Comparison", "\n".join(body))
