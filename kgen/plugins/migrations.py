"""Converts files that were saved under an older contract: one small function for each step.

Every file that kgen saves holds the number of its contract, ``api: 1``. A file without a number is of contract 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kgen.errors import RunError
from kgen.plugins.discovery import running
from kgen.plugins.hookspecs import API
from kgen.storage.weights import Arrays, Variables

Saved = dict[str, Any]
NUMBERED = re.compile(r"(\w+)\.(\d{4,})\..+")
"""Matches the name of a weight under contract 0."""

File = Literal["description", "manifest", "checkpoint"]
"""`pipeline.yaml` and `decoder.yaml`; `manifest.json`; the metadata of a checkpoint."""


def format_became_api(saved: Saved) -> Saved:
    """0 -> 1: the contract's number replaces `format`, the number of a description."""
    return {key: value for key, value in saved.items() if key != "format"}


def fit_has_contract_1(saved: Saved) -> Saved:
    """0 -> 1: in the `fit` on which a decoder depends, AdamW's options move to `optimizer`; new keys have defaults."""
    depends_on = saved.get("depends_on", {})
    decoder = depends_on.get("decoder", {})
    if not isinstance(fit := decoder.get("fit"), dict):
        return saved
    moved = {key: fit[key] for key in ("weight_decay", "beta_1", "beta_2") if key in fit}
    optimizer = {"name": "kgen/adamw", **moved, "epsilon": 1e-7, "amsgrad": False}
    others = {key: value for key, value in fit.items() if key not in moved}
    fit = {"trainable": ["*"], "frozen": [], "callbacks": [], **others, "optimizer": optimizer}
    return {**saved, "depends_on": {**depends_on, "decoder": {**decoder, "fit": fit}}}


def pictures_became_images(saved: Saved) -> Saved:
    """0 -> 1: in a manifest, "pictures" became "images", and the option "colours" of `shapes` became "colors"."""
    names = {"pictures": "images", "colours": "colors"}

    def renamed(data: Saved) -> Saved:
        return {names.get(key, key): value for key, value in data.items()}

    if isinstance(data := saved.get("data"), dict):
        saved = {**saved, "data": renamed(data)}
    if isinstance(made_from := saved.get("depends_on"), dict) and isinstance(data := made_from.get("data"), dict):
        saved = {**saved, "depends_on": {**made_from, "data": renamed(data)}}
    return saved


def manifest_of_contract_1(saved: Saved) -> Saved:
    """0 -> 1: applies both functions above to a manifest."""
    return fit_has_contract_1(pictures_became_images(saved))


def nothing_changed(saved: Saved) -> Saved:
    """Changes nothing, for a file that differs between two contracts only in the number."""
    return saved


MIGRATIONS: Mapping[File, tuple[Callable[[Saved], Saved], ...]] = {
    "description": (format_became_api,),
    "manifest": (manifest_of_contract_1,),
    "checkpoint": (nothing_changed,),
}
"""For each file, the step from contract 0 to 1, from 1 to 2, and so on."""


def positions_became_paths(arrays: Arrays, groups: Mapping[str, Sequence[Any]], paths: Variables) -> Arrays:
    """0 -> 1: a weight's name, such as `generator.0012.kernel`, becomes its path.

    The numbers identify the weights. The names after them have changed since, so they are not compared.

    Args:
        arrays: The arrays of a file of weights or a checkpoint, of either contract.
        groups: The variables of the model by part, in the order of their numbers.
        paths: The same variables by path.

    Returns:
        The arrays by path. The names of a part stay as they are if the model has another number of weights.
    """
    path_of = {id(variable): path for path, variable in paths.items()}
    old = {name: (found[1], int(found[2])) for name in arrays if (found := NUMBERED.fullmatch(name))}
    counts = Counter(group for group, _ in old.values())
    new = {
        (group, number): path_of[id(variable)]
        for group, variables in groups.items()
        if counts[group] == len(variables)
        for number, variable in enumerate(variables)
    }
    return {new.get(old[name], name) if name in old else name: array for name, array in arrays.items()}


def migrate(file: File, saved: Saved, path: Path) -> Saved:
    """Converts the content of a file to the contract of this kgen.

    Args:
        file: The type of the file.
        saved: The content of the file.
        path: The path of the file, for messages.

    Raises:
        RunError: the number is not that of a contract, or it is that of a newer one.
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
