"""Writes event files for TensorBoard."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from kgen.contracts.logger import Logger, Stage

NO_TENSORFLOW = "tensorboard.compat.notf"
"""If a module of this name exists, TensorBoard writes files without TensorFlow. Otherwise it imports an installed
TensorFlow, which takes seconds and memory on another backend."""


class TensorBoard(Logger):
    """Writes event files to the folder `tensorboard` of the run directory, and of its folders `encoder` and `decoder`.

    `tensorboard --logdir runs` shows them. After a resume, TensorBoard hides the steps that a killed process logged
    after its last checkpoint.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.files: dict[Stage, EventFileWriter] = {}

    def resume(self, stage: Stage, step: int) -> None:
        if "tensorflow" not in sys.modules:
            sys.modules.setdefault(NO_TENSORFLOW, ModuleType(NO_TENSORFLOW))
        folder = self.directory if stage == "generator" else self.directory / stage
        self.files[stage] = EventFileWriter(str(folder / "tensorboard"))
        self._add(stage, step + 1, session_log=SessionLog(status=SessionLog.START))  # hides this step and later ones

    def log(self, stage: Stage, step: int, values: Mapping[str, float]) -> None:
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(stage, step, summary=Summary(value=scalars))

    def image(self, stage: Stage, step: int, name: str, image: np.ndarray) -> None:
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(buffer, format="PNG")
        height, width, channels = image.shape
        png = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=buffer.getvalue())
        self._add(stage, step, summary=Summary(value=[Summary.Value(tag=name, image=png)]))

    def end(self, scores: Mapping[str, Mapping[str, float]] | None) -> None:
        for file in self.files.values():
            file.close()

    def _add(self, stage: Stage, step: int, **content: Any) -> None:
        self.files[stage].add_event(Event(wall_time=time.time(), step=step, **content))
