"""Options that had another name in an earlier release: they are read under the new one, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any


def rename_keys(given: dict[str, Any], renamed: Mapping[str, str], owner: str) -> None:
    """Moves what was given under an old name to the new name, in place, and warns of each.

    Args:
        given: Options by name. Where both names are given, the old one stays, and is refused as any unknown option.
        renamed: Old name -> new name.
        owner: The component or section that takes the options, for the warning.
    """
    for old, new in renamed.items():
        if old in given and new not in given:
            warnings.warn(f"{owner}: '{old}' is called '{new}' now", FutureWarning, stacklevel=3)
            given[new] = given.pop(old)
