"""What was saved under an older contract becomes what this one reads: one small function for each step.

Every file that kgen saves says under which contract it was saved: ``api: 1``. A file without a number is of contract 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kgen.errors import RunError
from kgen.plugins.discovery import running
from kgen.plugins.hookspecs import API
from kgen.storage.paths import COUNTER
from kgen.storage.weights import Arrays, Variables

Saved = dict[str, Any]
File = Literal["description", "manifest", "checkpoint"]
"""`pipeline.yaml` and `decoder.yaml`; `manifest.json`; the metadata of a checkpoint."""


def format_became_api(saved: Saved) -> Saved:
    """0 -> 1: a description had a number of its own, `format`, which the contract's number replaces."""
    return {key: value for key, value in saved.items() if key != "format"}


def nothing_changed(saved: Saved) -> Saved:
    """For a file that two contracts write alike, but for the number."""
    return saved


MIGRATIONS: Mapping[File, tuple[Callable[[Saved], Saved], ...]] = {
    "description": (format_became_api,),
    "manifest": (nothing_changed,),
    "checkpoint": (nothing_changed,),
}
"""For each file, the step from contract 0 to 1, from 1 to 2, and so on."""


def positions_became_paths(arrays: Arrays, groups: Mapping[str, Sequence[Any]], paths: Variables) -> Arrays:
    """0 -> 1: a weight had the name of its part and a number, `generator.0012.kernel`; it now has its path.

    Args:
        arrays: What a file of weights or a checkpoint holds, of either contract.
        groups: The variables of the model by part, in the order in which they were numbered.
        paths: The same variables by their paths.
    """
    path_of = {id(variable): path for path, variable in paths.items()}
    renamed = {
        f"{group}.{index:04d}.{COUNTER.sub('', variable.name)}": path_of[id(variable)]
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
    return {renamed.get(name, name): array for name, array in arrays.items()}


def migrate(file: File, saved: Saved, path: Path) -> Saved:
    """Brings what was read from `path` to the contract of this kgen.

    Raises:
        RunError: the number is no contract's, or that of a newer one; nothing is read then.
    """
    number = saved.get("api", 0)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise RunError(f"{path} is damaged: api: must be the number of a contract, got {str(number)[:60]!r}")
    if number > API:
        raise RunError(
            f"{path} was saved under contract {str(number)[:20]} of kgen, and this is {running()}, with contract "
            f"{API}: upgrade kgen to read it ('pip install --upgrade kgen-core', and its plugins)"
        )
    for step in MIGRATIONS[file][number:]:
        saved = step(saved)
    return {**saved, "api": API}
