"""The packages behind the loggers, which are imported when a logger is used."""

from __future__ import annotations

import importlib
from types import ModuleType

import kgen


def package(name: str) -> ModuleType:
    """Imports the package of an extra of this distribution.

    Raises:
        PluginError: the package is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        cure = f"pip install 'kgen-plugin-loggers[{name}]'"
        raise kgen.PluginError(f"logger '{name}' needs the package {name}: {cure} ({error})") from error
