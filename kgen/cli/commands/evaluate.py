"""kgen evaluate: score a trained pipeline, or compare two folders of images."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kgen.cli.common import ChangedData, log, parse_option, print_table, require_run
from kgen.errors import ConfigError
from kgen.reporting.plain import printable
from kgen.storage.ownership import require_free

if TYPE_CHECKING:
    from kgen.evaluation.results import Result

EXAMPLE = "Example: kgen evaluate runs/quickstart --metric metrics/frechet -n 1000 --seeds 3"


Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="A metric: its name, or {name: NAME, OPTION: VALUE}; repeatable.",
        show_default="those of the run; for folders, all",
    ),
]
Number = Annotated[
    int | None,
    typer.Option("-n", min=1, metavar="N", help="Images per split and seed, or per folder.", show_default=False),
]
Seeds = Annotated[
    int | None,
    typer.Option(min=1, max=1000, metavar="K", help="Number of seeds, for standard errors.", show_default=False),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of 'evaluate' or 'sample' in the run's configuration. Its end, such as 'guidance', is "
        "enough if no other key ends in it; repeatable.",
        show_default=False,
    ),
]
Workers = Annotated[int, typer.Option(min=1, max=256, metavar="W", help="Number of processes that share the images.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE.json",
        help="Write the results to this file only; the run stays as it is.",
        show_default=False,
    ),
]


def command(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FOLDER", help="A run directory, the name of an installed model, or a folder of images."
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="A folder of reference images, if the first is a folder of images."),
    ] = None,
    metrics: Metrics = None,
    number: Number = None,
    seeds: Seeds = None,
    settings: Changes = None,
    workers: Workers = 1,
    output: Output = None,
    changed_data: ChangedData = False,
) -> None:
    """Generate images from the prompts of a run's dataset, score them with metrics, and update the report.

    Given two folders, compare the images of the first with those of the second.
    """
    chosen = [_metric(text) for text in metrics or ()]
    overrides = [*(settings or ())]
    overrides += [f"evaluate.images={number}"] if number is not None and reference is None else []
    overrides += [f"evaluate.seeds={seeds}"] if seeds is not None else []
    if reference is None:
        target = require_run(target)
        if not (target / "config.yaml").is_file():
            raise ConfigError(
                f"{target} is not a run directory (it has no config.yaml). To score a folder of images, give a folder "
                f"of reference images, too: kgen evaluate {target} FOLDER"
            )
        output = _output(target, output)
        _print(_evaluate_run(target, overrides, chosen, output, workers, changed_data), folders=False)
    else:
        of_runs = {"--set": settings, "--seeds": seeds, "--workers": workers > 1, "--changed-data": changed_data}
        _require_folders(target, reference, of_runs)
        _require_json(output)
        _print(_evaluate_folders(target, reference, chosen, number, output), folders=True)


def _evaluate_run(
    run: Path, overrides: list[str], metrics: list[Any], out: Path | None, workers: int, changed_data: bool
) -> Sequence[Result]:
    from kgen.backend.selection import load_backend

    load_backend()
    from kgen.cli.progress import progress_reporter
    from kgen.runs.evaluation import evaluate

    with progress_reporter() as reporter:
        return evaluate(
            run,
            overrides,
            metrics=metrics,
            out=out,
            workers=workers,
            allow_changed_data=changed_data,
            log=reporter.log,
            on_images=reporter.on_images,
        )


def _evaluate_folders(
    images: Path, references: Path, metrics: list[Any], limit: int | None, out: Path | None
) -> Sequence[Result]:
    from kgen.backend.selection import load_backend

    load_backend()
    from kgen.cli.progress import progress_reporter
    from kgen.evaluation.folders import evaluate_folders
    from kgen.evaluation.results import write_results
    from kgen.storage.locks import output_lock

    with contextlib.nullcontext() if out is None else output_lock(out, "--output"):
        with progress_reporter() as reporter:
            results = evaluate_folders(
                images, references, metrics=metrics, limit=limit, log=reporter.log, on_images=reporter.on_images
            )
        if out is not None:
            measured = {"images": str(images), "references": str(references), "limit": limit}
            write_results(out, results, measured)
    return results


def _print(results: Sequence[Result], *, folders: bool) -> None:
    from rich.table import Table

    from kgen.reporting.digits import with_error

    splits = list(dict.fromkeys(result.split for result in results))
    table = Table("metric", *(["value"] if folders else map(printable, splits)))
    for title in dict.fromkeys(result.title for result in results):
        own = {result.split: result for result in results if result.title == title}
        cells = (with_error(own[s].mean, own[s].standard_error) if s in own else "" for s in splits)
        table.add_row(printable(title), *cells)
    if table.row_count:
        print_table(table)
    else:
        print("nothing to score: the configuration names no metrics under 'evaluate'; name one with --metric")


def _metric(text: str) -> Any:
    """A metric of the command line: a name, or a mapping in YAML."""
    value = parse_option(text, f"--metric {text}")
    if not isinstance(value, str | dict):
        raise ConfigError(f"--metric {text}: must be a name, or {{name: NAME, OPTION: VALUE}}")
    return value


def _output(run: Path, given: Path | None) -> Path | None:
    """The file for the results; None: that of the run. Those of an installed model go to the current folder."""
    from kgen.plugins.models import is_installed

    output = Path(f"{run.name}-evaluation.json") if given is None and is_installed(run) else given
    _require_json(output)
    if output != given:
        log(f"the results of an installed model are written to {output}")
    return output


def _require_json(path: Path | None) -> None:
    if path is None:
        return
    if path.suffix.lower() != ".json":
        raise ConfigError(f"--output {path}: must end with '.json'")
    require_free(path)
    from kgen.storage.files import writable_folder

    writable_folder(path.parent)


def _require_folders(target: Path, reference: Path, unused: dict[str, Any]) -> None:
    """Checks that two folders are given, and that no option is given that only applies to a run."""
    for folder in (target, reference):
        if (folder / "config.yaml").is_file() and (folder / "manifest.json").is_file():
            raise ConfigError(f"{folder} is a run directory: give one run alone, or two folders of images")
    for folder in (target, reference):
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder}")
    for option, value in unused.items():
        if value:
            raise ConfigError(f"{option} is an option for runs, but two folders are compared: leave it out")
