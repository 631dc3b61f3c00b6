"""Reads options that had another name in an earlier release under their new names, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any


def rename_keys(given: dict[str, Any], renamed: Mapping[str, str], owner: str) -> None:
    """Replaces old names of options by new names, in place, with a warning for each.

    Args:
        given: Options by name. If both names are given, the old one stays, and is later refused as an unknown option.
        renamed: Old name -> new name.
        owner: The component or section that the options belong to, for the warning.
    """
    for old, new in renamed.items():
        if old in given and new not in given:
            warnings.warn(f"{owner}: '{old}' is called '{new}' now", FutureWarning, stacklevel=3)
            given[new] = given.pop(old)
