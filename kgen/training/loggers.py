"""The loggers of a run, told together; one that fails costs a warning, and is told nothing more."""

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
from kgen.pipeline.assembly import construct, find
from kgen.plugins.faults import address, reason


def make_logger(choice: str | Mapping[str, Any], directory: Path) -> Logger:
    """A logger by its name, or a mapping with `name` and options.

    Raises:
        ConfigError: an unknown name, or an option that is wrong. PluginError: it cannot be imported.
    """
    component, given = find("logger", choice)
    found: Logger = construct("logger", component.id, component.load(), given, {"directory": directory})
    return found


class Loggers:
    """Several loggers as one.

    Args:
        loggers: Those that are told.
    """

    def __init__(self, loggers: Sequence[Logger] = ()) -> None:
        self.loggers = list(loggers)
        self.scores: Mapping[str, Mapping[str, float]] | None = None

    def begin(self, config: Mapping[str, Any]) -> None:
        self._tell("begin", config)

    def resume(self, stage: Stage, step: int) -> None:
        self._tell("resume", stage, step)

    def log(self, stage: Stage, step: int, values: Mapping[str, float]) -> None:
        self._tell("log", stage, step, values)

    def image(self, stage: Stage, step: int, name: str, image: np.ndarray) -> None:
        self._tell("image", stage, step, name, image)

    def end(self) -> None:
        """Tells them of the end, with `scores`, if the run has come so far."""
        self._tell("end", self.scores)
        self.loggers = []

    def _tell(self, method: str, *arguments: Any) -> None:
        for logger in list(self.loggers):
            try:
                getattr(logger, method)(*copy.deepcopy(arguments))
            except (Exception, SystemExit) as error:
                self.loggers.remove(logger)
                why = str(error) if isinstance(error, KgenError) else reason(error)
                message = f"{method} of {address(logger)} failed: {why}; the run goes on, and it is told nothing more"
                warnings.warn(message, HookWarning, stacklevel=2)


@contextmanager
def opened_loggers(choices: Sequence[ComponentConfig], directory: Path, config: Mapping[str, Any]) -> Iterator[Loggers]:
    """Makes the loggers of a run, tells them of its configuration, and of the end with the block.

    Raises:
        KgenError: one cannot be made.
    """
    loggers = Loggers([make_logger(choice.choice, directory) for choice in choices])
    loggers.begin(config)
    try:
        yield loggers
    finally:
        loggers.end()
