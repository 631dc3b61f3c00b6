"""What was saved under an older contract becomes what this one reads: one small function for each step.

Every file that kgen saves says under which contract it was saved: ``api: 1``. A file without a number is of contract 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from kgen.errors import RunError
from kgen.plugins.discovery import running
from kgen.plugins.hookspecs import API

Saved = dict[str, Any]
File = Literal["description", "manifest", "checkpoint"]
"""`pipeline.yaml` and `decoder.yaml`; `manifest.json`; the metadata of a checkpoint."""


def format_became_api(saved: Saved) -> Saved:
    """0 -> 1: a description had a number of its own, `format`, which the contract's number replaces."""
    return {key: value for key, value in saved.items() if key != "format"}


def pictures_became_images(saved: Saved) -> Saved:
    """0 -> 1: a manifest says "images", and `shapes` has "colors"."""
    names = {"pictures": "images", "colours": "colors"}

    def renamed(data: Saved) -> Saved:
        return {names.get(key, key): value for key, value in data.items()}

    if isinstance(data := saved.get("data"), dict):
        saved = {**saved, "data": renamed(data)}
    if isinstance(made_from := saved.get("depends_on"), dict) and isinstance(data := made_from.get("data"), dict):
        saved = {**saved, "depends_on": {**made_from, "data": renamed(data)}}
    return saved


def nothing_changed(saved: Saved) -> Saved:
    """For a file that two contracts write alike, but for the number."""
    return saved


MIGRATIONS: Mapping[File, tuple[Callable[[Saved], Saved], ...]] = {
    "description": (format_became_api,),
    "manifest": (pictures_became_images,),
    "checkpoint": (nothing_changed,),
}
"""For each file, the step from contract 0 to 1, from 1 to 2, and so on."""


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
