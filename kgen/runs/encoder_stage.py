"""The stage that trains the encoder of a run on images and captions, or copies a trained one from another run."""

from __future__ import annotations

from typing import Any

import numpy as np

from kgen.contracts.dataset import Split
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import EncoderInputs
from kgen.experiments.directory import RunDirectory
from kgen.experiments.experiment import encoder_with_assets
from kgen.experiments.initial import Start, load_initial_encoder
from kgen.experiments.inputs import eval_split
from kgen.parts.saving import load_encoder_weights, save_encoder
from kgen.pipeline.stage_models import EncoderModel
from kgen.plugins.faults import component_errors
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
        encoder = encoder_with_assets(self.config, self.dataset, self.run)
        return EncoderModel(encoder, self.dataset.image_space)

    def load_from(self, stage: RunDirectory) -> Encoder:
        load_encoder_weights(stage.model, self.encoder)
        return self.encoder

    def first_weights(self, part: Encoder) -> Start:
        return load_initial_encoder(self.own.init, part)

    def save(self, part: Encoder) -> None:
        save_encoder(part, self.directory.model)

    def scores(self, part: Encoder) -> dict[str, Any]:
        """The scores that the encoder computes. If possible, the images are not used in its training."""
        split: Split = eval_split(self.dataset) or "train"
        count = len(self.dataset.captions(split))
        rows = [int(row) for row in np.linspace(0, count - 1, min(count, MAX_SCORED))]
        inputs = EncoderInputs(self.dataset, split, part.fields)
        with component_errors(part):
            found = part.scores(
                np.stack([self.dataset.image(split, row) for row in rows]), [inputs[row] for row in rows]
            )
        return {"images": f"{len(rows)} ({split})", **{name: float(value) for name, value in found.items()}}
