"""Captions from the names of the folders that images lie in: a folder for each class."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kgen.contracts.dataset import Problem
from kgen.data.datasets.folder.divisions import Divisions, split_named
from kgen.data.datasets.folder.files import Files, some_names
from kgen.data.datasets.folder.tables import Captions, Entry

GENERIC = re.compile(
    r"(jpe?g|png|raw)?[-_ ]?(images?|imgs?|images?|pics|photos?|frames?|masks?|labels?|annotations?|data|files?)"
    r"|jpe?g|png|thumbnails?|originals?|all",
    re.IGNORECASE,
)
"""Names of folders that say nothing of what is in them."""


def from_classes(files: Files, divisions: Divisions, template: str) -> Captions:
    """The innermost folder of an image is its class; "_" becomes a space in its name."""
    found = Captions("folders", "the folders' names")
    for name in files.images:
        if label := _label(name, divisions).replace("_", " "):
            found.entries.append(Entry(name, template.replace("{label}", label)))
            found.labels[name] = label
        else:
            found.problems.append(Problem(name, "it lies in no folder that names its class"))
    return found


def why_no_classes(images: Sequence[str], divisions: Divisions) -> str | None:
    """Why the folders' names cannot be taken for classes unasked; None: they can; "": there are none."""
    labels = {label for name in images if (label := _label(name, divisions))}
    if not labels:
        return ""
    if splits := sorted(filter(split_named, labels)):
        return f"{some_names(splits)} is the name of a split, and of no class"
    if len(labels) == 1:
        return f"one folder, {some_names(labels)}, names no classes"
    if generic := sorted(filter(GENERIC.fullmatch, labels)):
        return f"a folder named {some_names(generic)} is no class"
    if all(re.fullmatch(r"\d{2,}", label) for label in labels) and any(label.startswith("0") for label in labels):
        return f"the folders {some_names(labels)} have numbers, which may just divide many files"
    return None


def _label(name: str, divisions: Divisions) -> str:
    """The name of the folder that an image lies in, below its split folder; "" for none."""
    return divisions.inside(name).rpartition("/")[2]
