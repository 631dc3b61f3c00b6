"""Captions from the names of folders, with one folder per class."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kgen.contracts.dataset import Problem
from kgen.data.datasets.folder.divisions import Divisions, split_named
from kgen.data.datasets.folder.files import Files, some_names
from kgen.data.datasets.folder.tables import Captions, Entry

GENERIC = re.compile(
    r"(jpe?g|png|raw)?[-_ ]?(images?|imgs?|pictures?|pics|photos?|frames?|masks?|labels?|annotations?|data|files?)"
    r"|jpe?g|png|thumbnails?|originals?|all",
    re.IGNORECASE,
)
"""Names of folders that do not describe their images."""


def from_classes(files: Files, divisions: Divisions, template: str) -> Captions:
    """Makes captions from classes. The innermost folder of an image is its class; "_" in its name becomes a space."""
    found = Captions("folders", "the folders' names")
    for name in files.images:
        if label := _label(name, divisions).replace("_", " "):
            found.entries.append(Entry(name, template.replace("{label}", label)))
            found.labels[name] = label
        else:
            found.problems.append(Problem(name, "it is not in a folder that names its class"))
    return found


def why_no_classes(images: Sequence[str], divisions: Divisions) -> str | None:
    """Says why the names of folders are not classes by default; None: they are; "": there are no folders."""
    labels = {label for name in images if (label := _label(name, divisions))}
    if not labels:
        return ""
    if splits := sorted(filter(split_named, labels)):
        return f"{some_names(splits)} is the name of a split, not of a class"
    if len(labels) == 1:
        return f"one folder, {some_names(labels)}, names no classes"
    if generic := sorted(filter(GENERIC.fullmatch, labels)):
        return f"a folder named {some_names(generic)} is not a class"
    if all(re.fullmatch(r"\d{2,}", label) for label in labels) and any(label.startswith("0") for label in labels):
        return f"the folders {some_names(labels)} have numbers, which may just divide many files"
    return None


def _label(name: str, divisions: Divisions) -> str:
    """The name of an image's folder, below its split folder; "" if there is none."""
    return divisions.inside(name).rpartition("/")[2]
