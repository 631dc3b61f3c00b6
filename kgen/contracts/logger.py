"""The contract of what is told of a run as it goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from kgen.options import Arguments, Configurable

Stage = Literal["decoder", "generator"]
"""The trainings of a run, in their order; most runs have the second alone."""


class Logger(Configurable, ABC):
    """Is told of a run, and keeps or sends on what it is told.

    A run file names its loggers: ``loggers: [tensorboard, {name: mine, option: 1}]``. Each process of a run makes its
    own, so a run that is resumed has a new logger, which finds in the directory what an earlier one has left there. Its
    methods are called in the order in which they stand here, by the process that writes the run directory.

    An exception is shown as a warning; the logger is then told nothing more, and the run goes on.

    Args:
        directory: Of the run; the logger may write into it, under names of its own. A constructor that does not need it
            leaves it out. It opens and sends nothing yet.

    Attributes:
        remote: Whether what it is told leaves the directory. kgen tries a logger in another directory before the
            training, with a row and an image; of one that is remote, it calls no more than `check`.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {
        "__init__": Arguments(supplied=("directory",), reserved=frozenset({"name"}))
    }

    remote: ClassVar[bool] = False

    def check(self) -> None:
        """Raises `ConfigError` or `PluginError` where something is missing that it will need. Default: nothing is."""

    def begin(self, config: Mapping[str, Any]) -> None:
        """Is told first, in each process.

        Args:
            config: The whole configuration of the run, as plain data.
        """

    def resume(self, stage: Stage, step: int) -> None:
        """Is told that a training begins, or goes on.

        Args:
            step: The last step that is done, 0 at the beginning. An earlier process may have told of later ones before
                it was killed: these will be told again.
        """

    @abstractmethod
    def log(self, stage: Stage, step: int, values: Mapping[str, float]) -> None:
        """Takes a row of the journal of a training.

        Args:
            step: From 1 on. A step may have several rows, with different names.
            values: By name: "loss" and the other losses, "learning_rate", "images_per_second"; validation losses under
                "val_loss" and so on.
        """

    def image(self, stage: Stage, step: int, name: str, image: np.ndarray) -> None:
        """Takes an image, such as a grid of samples.

        Args:
            name: Such as "samples"; the same at each step.
            image: uint8 (height, width, channels).
        """

    def end(self, scores: Mapping[str, Mapping[str, float]] | None) -> None:
        """Is told last, in each process.

        Args:
            scores: Numbers by split and name, as in `evaluation.json`; None: the run was stopped, or has failed.
        """
