"""The contract of a logger, which records a run while it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from kgen.options import Arguments, Configurable

Stage = Literal["encoder", "decoder", "generator"]
"""The trainings of a run, in this order. Most runs have only the last."""


class Logger(Configurable, ABC):
    """Records the metrics, images and scores of a run, or sends them to a service.

    A run file names its loggers: ``loggers: [tensorboard, {name: mine, option: 1}]``. Each process of a run creates its
    own loggers, so a logger of a resumed run finds in the directory what the logger of an earlier process wrote there.
    kgen calls the methods in the order below, only in the process that writes the run directory.

    If a method raises an exception, kgen prints a warning, does not call this logger again, and the run continues.

    Args:
        directory: The run directory. A logger may write its own files into it. A constructor that does not need the
            directory omits this argument. The constructor must not open files or connections.

    Attributes:
        remote: Whether the logger sends data to a service. Before the training, kgen tries every other logger in a
            temporary directory with one row and one image; for a remote logger, it only calls `check`.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {
        "__init__": Arguments(supplied=("directory",), reserved=frozenset({"name"}))
    }

    remote: ClassVar[bool] = False

    def check(self) -> None:
        """Raises `ConfigError` or `PluginError` if the logger cannot work, for example without a package or a login.

        kgen calls it before the training. By default, it does nothing.
        """

    def begin(self, config: Mapping[str, Any]) -> None:
        """Starts the log of a process.

        Args:
            config: The complete configuration of the run, as plain data.
        """

    def resume(self, stage: Stage, step: int) -> None:
        """Starts the log of a training, which begins or continues.

        Args:
            stage: The name of the training.
            step: The last completed step, 0 at the beginning. If an earlier process was killed, it may have logged
                later steps; these steps are trained and logged again.
        """

    @abstractmethod
    def log(self, stage: Stage, step: int, values: Mapping[str, float]) -> None:
        """Records a row of metrics.csv.

        Args:
            stage: The name of the training.
            step: The step, from 1. The same step can have two rows: one of the training and one of the validation.
            values: Numbers by name. A row of the training has "loss" and the other losses, "learning_rate",
                "images_per_second", "input_wait" (the seconds per step of waiting for a batch) and
                "input_images_per_second" (the speed of the loader); with an accelerator also "memory" (the largest
                use of its memory so far, in MiB). A row of the validation has "val_loss" and the
                other validation losses. A row of scores of few images has names that begin with "proxy ".
        """

    def image(self, stage: Stage, step: int, name: str, image: np.ndarray) -> None:
        """Records an image, such as a grid of samples.

        Args:
            stage: The name of the training.
            step: The step after which the image was made.
            name: Name of the image, such as "samples"; it is the same for every step.
            image: uint8 (height, width, channels).
        """

    def end(self, scores: Mapping[str, Mapping[str, float]] | None) -> None:
        """Ends the log of a process.

        Args:
            scores: The means of `evaluation.json`, as in the hook `kgen_run_finished`; None if the run was interrupted
                or failed.
        """
