"""kgen sweep: train or evaluate variants of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kgen.cli.common import log, parse_option, plain_console, run_file
from kgen.errors import ConfigError, RunError
from kgen.reporting.plain import printable

if TYPE_CHECKING:
    from kgen.config.source import Source
    from kgen.sweeps.engines import Engine
    from kgen.sweeps.sweep import Swept

EXAMPLE = "Example: kgen sweep quickstart --over seed=0,1,2 --over generator.network.width=64,128"


Target = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG|RUN|STUDY",
        help="A run file, whose variants are trained; the directory of a finished run, which is only evaluated; a "
        "study file; or the folder of an earlier sweep, which continues.",
    ),
]
Over = Annotated[
    list[str] | None,
    typer.Option(
        "--over",
        metavar="KEY=VALUE,VALUE...",
        help="An axis: a key of the run file, or a sampling option, and its values; repeatable. The sweep has all "
        "combinations. For 'seed', the table shows means.",
        show_default=False,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key in all trials; repeatable.", show_default=False),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="A metric: its name, or {name: NAME, OPTION: VALUE}; repeatable.",
        show_default="those of the run",
    ),
]
Number = Annotated[
    int | None, typer.Option("-n", min=1, metavar="N", help="Images per split and seed.", show_default=False)
]
Seeds = Annotated[
    int | None, typer.Option(min=1, max=1000, metavar="K", help="Seeds of each evaluation.", show_default=False)
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FOLDER", help="The folder to write.", show_default="sweeps/NAME"),
]
EngineName = Annotated[
    Literal["processes", "ray"],
    typer.Option("--engine", help="Run one process after the other, or run tasks with Ray."),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--ray-address", metavar="ADDRESS", help="The Ray cluster, such as 'auto'.", show_default="this machine"
    ),
]
Cpus = Annotated[float | None, typer.Option("--cpus", min=0.0, help="Processors per job, for Ray.", show_default="1")]
Gpus = Annotated[float | None, typer.Option("--gpus", min=0.0, help="GPUs per job, for Ray.", show_default="0")]


def command(
    target: Target,
    over: Over = None,
    settings: Changes = None,
    metrics: Metrics = None,
    number: Number = None,
    seeds: Seeds = None,
    output: Output = None,
    engine: EngineName = "processes",
    address: Address = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Train and evaluate variants of a run, or sample a run with several settings, and write a table and plots.

    The same command continues a sweep that was interrupted, and repeats what failed.
    """
    changes = _changes(settings or (), metrics or (), number, seeds)
    source, folder, name = _read(target, over or ())
    from kgen.backend.selection import load_backend

    load_backend()
    from kgen.studies.study import Study
    from kgen.sweeps.directory import SweepDirectory
    from kgen.sweeps.sweep import sweep

    _add(source, over or (), changes)
    study = Study.from_source(source, name, folder)
    if output is None and SweepDirectory(target).holds_sweep:
        output = target
    _report(sweep(study, output, engine=_engine(engine, address, cpus, gpus), log=log))


def _report(done: Swept) -> None:
    """Prints the table and the paths of the files. Raises RunError if a training or an evaluation failed."""
    _show(*done.table.to_read())
    for note in done.table.notes:
        log(f"note: {note}")
    log(f"page:  {done.directory.page}\ntable: {done.directory.markdown}, {done.directory.csv}")
    if done.failures:
        listed = "\n".join(f"  {name}: {text.splitlines()[0]}" for name, text in done.failures.items())
        raise RunError(
            f"{len(done.failures)} of the trainings and evaluations failed (see {done.directory.failures}), and all "
            f"others are finished; the same command tries these again:\n{listed}"
        )


def _read(target: Path, over: Sequence[str]) -> tuple[Source, Path, str]:
    """Reads a study, or makes one from a run. Returns it, the folder to which its paths are relative, and its name."""
    from kgen.config.source import Origin, Source, read_file

    file = target / "sweep.yaml" if (target / "sweep.yaml").is_file() else target
    if not file.is_dir():
        file = run_file(file)
        source = read_file(file)
        if "over" in source.data or "run" in source.data:
            return source, file.parent, target.name if target.is_dir() else file.stem
    if not over:
        raise ConfigError(f"{target} is not a study, so it needs an axis: give --over KEY=VALUE,VALUE,...")
    return Source({"run": str(file.resolve())}, Origin(0, str(target))), Path(), ""


def _changes(
    settings: Sequence[str], metrics: Sequence[str], number: int | None, seeds: int | None
) -> list[tuple[tuple[str, ...], Any, str]]:
    """The parts of a study that the options give: their paths, their values and the options."""
    found: list[tuple[tuple[str, ...], Any, str]] = []
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not all(key.strip().split(".")):
            raise ConfigError(f"--set {text}: must read KEY=VALUE, such as fit.steps=100")
        found.append((("set", key.strip()), parse_option(value, f"--set {text}"), f"--set {text}"))
    if metrics:
        found.append((("metrics",), [parse_option(metric, f"--metric {metric}") for metric in metrics], "--metric"))
    for option, key, given in (("-n", "images", number), ("--seeds", "seeds", seeds)):
        if given is not None:
            found.append((("evaluate", key), given, option))
    return found


def _add(source: Source, over: Sequence[str], changes: Sequence[tuple[tuple[str, ...], Any, str]]) -> None:
    """Adds axes and changes to a study. An axis replaces the axis with the same key."""
    from kgen.config.overrides import AFTER_FILE
    from kgen.config.source import Origin
    from kgen.studies.axes import parse_over

    axes = [(("over", key), values, f"--over {text}") for text in over for key, values in [parse_over(text)]]
    for number, (path, value, option) in enumerate([*changes, *axes]):
        if path[0] == "over" and path in source.where and source.where[path].order >= AFTER_FILE:
            raise ConfigError(f"{option}: the axis is given twice: put all its values into one --over")
        try:
            source.put(path, value, Origin(AFTER_FILE + number, option))
        except ValueError as error:
            raise ConfigError(f"{option}: {error}") from error


def _engine(name: str, address: str | None, cpus: float | None, gpus: float | None) -> Engine:
    if name == "ray":
        from kgen.sweeps.clusters import Ray

        return Ray(address=address, cpus=1.0 if cpus is None else cpus, gpus=0.0 if gpus is None else gpus)
    if given := [f"--{o}" for o, v in (("ray-address", address), ("cpus", cpus), ("gpus", gpus)) if v is not None]:
        raise ConfigError(f"{', '.join(given)}: for --engine ray only: name that engine, or leave this out")
    from kgen.sweeps.engines import OneByOne

    return OneByOne()


def _show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table."""
    from rich.table import Table

    shown = Table(*map(printable, head))
    for row in rows:
        shown.add_row(*map(printable, row))
    plain_console().print(shown)
