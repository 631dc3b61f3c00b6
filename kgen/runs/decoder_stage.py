"""The stage that trains or calibrates the decoder of a run, or copies a trained one from another run."""

from __future__ import annotations

import math
import time
from typing import Any

from kgen.config import RunConfig
from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder, trained_before
from kgen.errors import RunError
from kgen.experiments.directory import RunDirectory
from kgen.experiments.experiment import is_imported, trained_part
from kgen.experiments.initial import Start, load_initial_decoder
from kgen.experiments.inputs import SplitImages
from kgen.experiments.trainer import Log, Trainer
from kgen.parts.construction import find, make_decoder
from kgen.parts.saving import load_decoder, save_decoder
from kgen.parts.sources import WeightSource
from kgen.pipeline.assembly import with_decoder
from kgen.pipeline.model import Pipeline
from kgen.pipeline.stage_models import DecoderModel, Reconstructor, uses_encoder
from kgen.random import seed_everything
from kgen.runs.reconstructions import Reconstructions
from kgen.runs.stage import Stage
from kgen.training.outputs import Sheets


class DecoderStage(Stage[Decoder]):
    """The decoder of a run, in the folder `decoder/` of the run directory.

    Args:
        encoder: The encoder of the run, for a decoder that uses it. If it has a stage, that must be finished.
    """

    kind = "decoder"

    def __init__(self, config: RunConfig, run: RunDirectory, dataset: Dataset, encoder: Encoder) -> None:
        super().__init__(config, run, dataset, encoder)
        self.gallery = Reconstructions(config.name, dataset, encoder)

    def depends_on(self) -> dict[str, Any]:
        """Everything that determines the trained decoder, also the encoder if the decoder uses it."""
        found = super().depends_on()
        if uses_encoder(find("decoder", self.own.name)[0].load()):
            found["encoder"] = self.config.encoder.dump()
            if trained_before(type(self.encoder)):
                found["encoder_weights"] = WeightSource(self.run.encoder_stage.path).digest
        return found

    def import_from_run(self, log: Log) -> Decoder:
        """Copies the decoder of the run in `from`. If it shares the weights of an encoder, that must be the run's own.

        Raises:
            RunError: that run has not trained the decoder; or the decoder shares the weights of another encoder.
        """
        if getattr(self.new(), "encoder", None) is not None:
            there = trained_part(str(self.own.source), "decoder").read_manifest().get("depends_on", {})
            if there.get("encoder_weights") != self.depends_on().get("encoder_weights"):
                raise RunError(
                    f"the decoder of {self.own.source} was trained with another encoder, whose weights it needs: set "
                    f"encoder.from to {self.own.source}, too"
                )
        return super().import_from_run(log)

    # ---- making a decoder -----------------------------------------------------------------------------------------

    def new(self) -> Decoder:
        """Makes the decoder of the configuration, with new weights."""
        return make_decoder(self.own.choice, self.dataset.image_space, self.encoder.condition_space, self.encoder)

    def new_model(self) -> DecoderModel:
        return DecoderModel(self.new(), self.encoder)

    def load_from(self, stage: RunDirectory) -> Decoder:
        return load_decoder(stage.model, self.new())

    def first_weights(self, part: Decoder) -> Start:
        part.initialize(SplitImages(self.dataset, "train"))
        return load_initial_decoder(self.own.init, part)

    def make(self, trainer: Trainer) -> Decoder:
        """Trains the decoder, or calibrates it if it has no losses, or if its weights come from files."""
        if self.own.fit is None:
            return trainer.distribution.by_chief(lambda: self.calibrate(trainer.log), self.load)
        return self.train(trainer)

    def calibrate(self, log: Log) -> Decoder:
        """Initializes and calibrates a decoder without training steps on the images."""
        seed_everything(self.config.seed)
        decoder = self.new()
        decoder.build(None)
        self.begin()
        if is_imported(self.config, self.kind):
            log(f"the decoder: {sum(math.prod(w.shape) for w in decoder.weights):,} weights, copied into the run")
        else:
            log(f"the decoder: calibrated on {len(self.dataset.captions('train'))} images, without training")
        began = time.perf_counter()
        decoder.initialize(SplitImages(self.dataset, "train"))
        return self.finish(decoder, 0, time.perf_counter() - began)

    def save(self, part: Decoder) -> None:
        """Calibrates and saves a trained decoder."""
        part.calibrate(SplitImages(self.dataset, "train"))
        save_decoder(part, self.directory.model)

    # ---- reconstructions and scores --------------------------------------------------------------------------------

    def sheets(self, part: Decoder) -> Sheets:
        return self.gallery.sheets(part, self.directory)

    def scores(self, part: Decoder) -> dict[str, Any]:
        """The scores of reconstructions. It also writes a sheet of them."""
        self.gallery.save_sheet(Reconstructor(part, self.encoder), self.directory.final_grid)
        return self.gallery.scores(part)

    def put_into(self, pipeline: Pipeline, part: Decoder) -> Pipeline:
        """Returns a pipeline with the trained decoder in place of the untrained one."""
        return with_decoder(pipeline, part)
