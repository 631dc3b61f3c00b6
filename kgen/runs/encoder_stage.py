"""The stage that trains the encoder of a run on images and captions, or copies one from files or another run."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from kgen.backend.memory import weights_fit
from kgen.contracts.dataset import Split
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import EncoderInputs
from kgen.experiments.directory import RunDirectory
from kgen.experiments.experiment import encoder_with_assets, is_pretrained
from kgen.experiments.initial import Start, load_initial_encoder
from kgen.experiments.inputs import eval_split
from kgen.experiments.trainer import Log, Trainer
from kgen.parts.saving import load_encoder_weights, save_encoder
from kgen.pipeline.stage_models import EncoderModel
from kgen.plugins.faults import component_errors
from kgen.random import seed_everything
from kgen.runs.stage import Stage

MAX_SCORED = 512
"""Largest number of examples on which a trained encoder is scored."""


class EncoderStage(Stage[Encoder]):
    """The encoder of a run, in the folder `encoder/` of the run directory.

    The trained weights are loaded into the encoder of the run's pipeline, which is frozen.

    Args:
        encoder: The encoder of the run, with its assets.
    """

    kind = "encoder"

    def new_model(self) -> EncoderModel:
        return EncoderModel(self.new(), self.dataset.image_space)

    def new(self) -> Encoder:
        """A new encoder, with its assets. A pretrained one reads its files, which have its first weights, too."""
        directory = None if is_pretrained(self.config, self.kind) else self.run
        return encoder_with_assets(self.config, self.dataset, directory)

    def make(self, trainer: Trainer) -> Encoder:
        """Trains the encoder; a pretrained one without `fit` is copied into the run."""
        if self.own.fit is None:
            return trainer.distribution.by_chief(lambda: self.read_files(trainer.log), self.load)
        return self.train(trainer)

    def read_files(self, log: Log) -> Encoder:
        """Reads a pretrained encoder from its files."""
        seed_everything(self.config.seed)
        began = time.perf_counter()
        encoder = self.new()
        with weights_fit():
            encoder.null_condition()
        self.begin()
        log(f"the encoder: {sum(math.prod(w.shape) for w in encoder.weights):,} weights, copied into the run")
        return self.finish(encoder, 0, time.perf_counter() - began)

    def load_from(self, stage: RunDirectory) -> Encoder:
        load_encoder_weights(stage.model, self.encoder)
        return self.encoder

    def first_weights(self, part: Encoder) -> Start:
        return load_initial_encoder(self.own.init, part)

    def save(self, part: Encoder) -> None:
        save_encoder(part, self.directory.model)

    def scores(self, part: Encoder) -> dict[str, Any]:
        """The scores that the encoder computes, or none if the shapes of the images differ.

        If possible, the images are not used in its training.
        """
        split: Split = eval_split(self.dataset) or "train"
        if self.dataset.rows_by_shape(split):
            return {}
        count = len(self.dataset.captions(split))
        rows = [int(row) for row in np.linspace(0, count - 1, min(count, MAX_SCORED))]
        inputs = EncoderInputs(self.dataset, split, part.fields)
        with component_errors(part):
            found = part.scores(
                np.stack([self.dataset.image(split, row) for row in rows]), [inputs[row] for row in rows]
            )
        return {"images": f"{len(rows)} ({split})", **{name: float(value) for name, value in found.items()}}
