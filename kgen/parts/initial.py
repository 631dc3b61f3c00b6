"""Loads trained weights into a pipeline, all of them or those that patterns of paths select."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kgen.contracts.encoder import Encoder
from kgen.errors import RunError
from kgen.parts.patterns import ALL, check_patterns, matches, select
from kgen.parts.saving import Assembled, saved_weights, with_paths
from kgen.parts.sources import ASSETS, WeightSource, check_assets, takes_assets
from kgen.plugins.models import find_run
from kgen.storage.weights import Arrays, Variables

MAX_NAMED = 20
"""Number of weights that an error message names."""


@dataclass(frozen=True)
class InitialWeights:
    """The result of `init_weights`, as paths of weights.

    Args:
        taken: The weights that were assigned.
        fresh: The weights of the model that did not change.
        unused: The weights of the source that were not used.
    """

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def init_weights(
    pipeline: Assembled, source: str | Path, *, include: Sequence[str] = ALL, exclude: Sequence[str] = ()
) -> InitialWeights:
    """Loads saved weights into a pipeline before its training.

    Weights are found by their paths, which `kgen.weight_paths` lists. The selected paths and their shapes must be the
    same in the pipeline and in the source. With the default `include`, a part that the source lacks does not change.

    Args:
        source: A run directory, a folder that `kgen.save` wrote, the name of an installed model, or a file of weights
            such as a checkpoint.
        include: Patterns of the paths to load. `*` stands for any characters, and a layer's path for all weights in it.
        exclude: Patterns of the paths not to load. "encoder/assets" stands for the encoder's assets, such as a
            vocabulary; unless they are excluded, they must be the same in the pipeline and in the source.

    Returns:
        The paths of the weights that were loaded, and of those that were not.

    Raises:
        RunError: there are no weights, or some do not fit. The message names these, and no weight is assigned.
        ConfigError: a pattern matches nothing.
    """
    weights, found = saved_weights(pipeline), WeightSource(find_run(source))
    return assign_weights(
        weights, found, include, exclude, lambda arrays: with_paths(arrays, pipeline), pipeline.encoder
    )


def assign_weights(
    variables: Variables,
    source: WeightSource,
    include: Sequence[str],
    exclude: Sequence[str],
    migrate: Callable[[Arrays], Arrays],
    encoder: Encoder | None = None,
) -> InitialWeights:
    """Loads saved weights into variables, given by path; see `init_weights`. Checks the assets of an encoder, too."""
    parts = {path.partition("/")[0] for path in variables}
    arrays = source.read(parts, migrate)
    if encoder is not None and takes_assets(include, exclude):
        check_assets(encoder, source)
    held = {name.partition("/")[0] for name in arrays}
    known = {*variables, *arrays, ASSETS}
    check_patterns("include", include, known)
    check_patterns("exclude", exclude, known)
    there = set(select(arrays, include, exclude))
    here = set(select(variables, include, exclude))
    if tuple(include) == ALL:
        here = {path for path in here if path.partition("/")[0] in held}
    if wrong := dict(_misfits(here, there, variables, arrays)):
        raise RunError(_message(source, wrong, (here & there) - wrong.keys()))
    if not here:
        raise RunError(f"no weights are taken from {source.path}: 'include' and 'exclude' select none of its weights")
    for path in here:
        variables[path].assign(arrays[path])
    return InitialWeights(*(tuple(sorted(paths)) for paths in (here, variables.keys() - here, arrays.keys() - there)))


def _misfits(
    here: Collection[str], there: Collection[str], variables: Variables, arrays: Arrays
) -> Iterator[tuple[str, str]]:
    """The paths that exist on one side only, or whose shapes differ, each with a description of the problem."""
    for path in sorted({*here, *there}):
        found = arrays[path].shape if path in there else "missing"
        wanted = tuple(variables[path].shape) if path in here else "missing"
        if found != wanted:
            yield path, f"{found} in the source, {wanted} in the model"


def _message(source: WeightSource, wrong: dict[str, str], fitting: Collection[str]) -> str:
    lines = [f"{path}: {what}" for path, what in wrong.items()]
    more = [f"and {len(lines) - MAX_NAMED} more"] if len(lines) > MAX_NAMED else []
    listed = "\n  ".join(lines[:MAX_NAMED] + more)
    patterns = ", ".join(short_patterns(list(wrong), fitting))
    return f"the weights of {source.path} do not fit:\n  {listed}\nto leave them out, exclude [{patterns}]"


def short_patterns(wanted: Sequence[str], others: Collection[str]) -> list[str]:
    """A short list of patterns that match all wanted paths, and none of the others."""
    found: list[str] = []
    for path in wanted:
        if not matches(path, found):
            part, *below = path.split("/")
            shorter = (f"{part}/*/{'/'.join(below[-depth:])}" for depth in range(1, len(below)))
            found.append(next((p for p in shorter if not any(matches(other, [p]) for other in others)), path))
    return found
