"""kgen weights: list the paths of saved weights."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import log

EXAMPLE = "Example: kgen weights runs/quickstart 'generator/*/kernel'"


def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run directory, a saved pipeline, an installed model, or a file of weights."
        ),
    ],
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATTERN...", help="Patterns of the paths to list: * stands for any characters.", show_default="all"
        ),
    ] = None,
) -> None:
    """List the paths and shapes of weights, as `init`, `fit.frozen` and `fit.trainable` in run files use them."""
    from kgen.parts.patterns import ALL, check_patterns, select
    from kgen.plugins.models import find_run
    from kgen.storage.weights import find_weights, read_shapes

    shapes = read_shapes(find_weights(find_run(source)))
    check_patterns("PATTERN", patterns or [], shapes)
    chosen = select(shapes, patterns or ALL, [])
    width = max(map(len, chosen))
    for path in chosen:
        log(f"{path:<{width}}  {shapes[path]}")
    log(f"{len(chosen):,} weights, {sum(prod(shapes[path]) for path in chosen):,} parameters")
