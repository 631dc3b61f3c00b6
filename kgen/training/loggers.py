"""Calls all loggers of a run. A logger that fails causes a warning and is not called again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kgen.config import ComponentConfig
from kgen.contracts.logger import Logger, Stage
from kgen.errors import HookWarning, KgenError
from kgen.parts.construction import construct, find
from kgen.plugins.faults import address, reason


def make_logger(choice: str | Mapping[str, Any], directory: Path) -> Logger:
    """Creates a logger from its name, or from a mapping with `name` and options.

    Raises:
        ConfigError: the name or an option is wrong. PluginError: the class cannot be imported.
    """
    component, given = find("logger", choice)
    found: Logger = construct("logger", component.id, component.load(), given, {"directory": directory})
    return found


class Loggers:
    """A group of loggers.

    Args:
        loggers: The members.

    Attributes:
        scores: The scores that `end` passes on; None until the run has them.
    """

    def __init__(self, loggers: Sequence[Logger] = ()) -> None:
        self.loggers = list(loggers)
        self.scores: Mapping[str, Mapping[str, float]] | None = None

    def begin(self, config: Mapping[str, Any]) -> None:
        self._call("begin", config)

    def resume(self, stage: Stage, step: int) -> None:
        self._call("resume", stage, step)

    def log(self, stage: Stage, step: int, values: Mapping[str, float]) -> None:
        self._call("log", stage, step, values)

    def image(self, stage: Stage, step: int, name: str, image: np.ndarray) -> None:
        self._call("image", stage, step, name, image)

    def end(self) -> None:
        """Ends all logs."""
        self._call("end", self.scores)
        self.loggers = []

    def _call(self, method: str, *arguments: Any) -> None:
        for logger in list(self.loggers):
            try:
                getattr(logger, method)(*copy.deepcopy(arguments))
            except (Exception, SystemExit) as error:
                self.loggers.remove(logger)
                why = str(error) if isinstance(error, KgenError) else reason(error)
                message = f"{address(logger)} failed in {method}: {why}; the run continues without this logger"
                warnings.warn(message, HookWarning, stacklevel=2)


@contextmanager
def opened_loggers(choices: Sequence[ComponentConfig], directory: Path, config: Mapping[str, Any]) -> Iterator[Loggers]:
    """Creates the loggers of a run and starts their logs, which end with the block.

    Args:
        choices: The loggers.
        directory: The run directory.
        config: The complete configuration of the run.

    Raises:
        KgenError: a logger cannot be created.
    """
    loggers = Loggers([make_logger(choice.choice, directory) for choice in choices])
    loggers.begin(config)
    try:
        yield loggers
    finally:
        loggers.end()
