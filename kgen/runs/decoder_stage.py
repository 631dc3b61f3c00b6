"""The stage before the generator's training, in which a decoder is trained, calibrated, or copied from another run."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from pathlib import Path
from typing import Any

from kgen.config import RunConfig
from kgen.config.changes import changes
from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.errors import RunError
from kgen.experiments.directory import RunDirectory
from kgen.experiments.initial import Start, load_initial_decoder
from kgen.experiments.inputs import Inputs, SplitImages
from kgen.experiments.trainer import Log, Trainer, count_weights
from kgen.parts.construction import find, make_decoder
from kgen.parts.freezing import freeze
from kgen.parts.saving import load_decoder, save_decoder
from kgen.pipeline.decoder_model import DecoderModel, reads_text
from kgen.plugins.discovery import CORE
from kgen.random import seed_everything
from kgen.runs.reconstructions import Reconstructions
from kgen.storage.files import atomic_folder, files_in
from kgen.training.averages import averaged_weights

FINGERPRINT = "data.images"
"""The key of the images' fingerprint in `depends_on`."""

DATA_HINT = "\nthe images or captions have changed: continue with the changed data with --changed-data"


class DecoderStage:
    """The decoder of a run, in the folder `decoder/` of the run directory.

    Args:
        config: The configuration of the run.
        directory: The run directory.
        dataset: The data of the decoder's training: `decoder.data` if it is given, else the run's data.
        encoder: The encoder of the run, for a decoder that reads the text.
    """

    def __init__(self, config: RunConfig, directory: RunDirectory, dataset: Dataset, encoder: Encoder) -> None:
        self.config = config
        self.directory = directory.decoder_stage
        self.dataset = dataset
        self.encoder = encoder
        self.gallery = Reconstructions(config.name, dataset, encoder)

    def prepare(self, trainer: Trainer, older: Path | None = None, changed_data: bool = False) -> Decoder:
        """Returns the trained decoder, which is trained if needed.

        Args:
            trainer: The trainer of the run.
            older: A renamed older run, whose decoder is reused if it would be the same.
            changed_data: Whether to continue if images have changed.

        Raises:
            RunError: the decoder in the folder depends on something else, or the other run has no trained decoder.
            RunInterruptedError: the user pressed Ctrl-C.
        """
        if self.config.decoder.source is not None:
            return self.load() if self.finished else self.import_from_run(trainer.log)
        if older is not None:
            self.reuse_previous(older, trainer.log)
        self.check(changed_data)
        if self.finished:
            return self.load()
        return self.calibrate(trainer.log) if self.config.decoder.fit is None else self.train(trainer)

    # ---- existing decoders ----------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        return bool(self.directory.read_manifest().get("finished"))

    def depends_on(self) -> dict[str, Any]:
        """Everything that determines the trained decoder. If it has not changed, the decoder is not trained again."""
        own, decoder = self.config.decoder, find("decoder", self.config.decoder.name)[0]
        text = {"encoder": self.config.encoder.dump()} if reads_text(decoder.load()) else {}
        return {
            "decoder": {
                **own.choice,
                "fit": own.fit and own.fit.dump(),
                **({"init": [source.dump() for source in own.init]} if own.init else {}),
            },
            "data": {"images": self.dataset.fingerprint(), **(own.data or self.config.data).dump()},
            "seed": self.config.seed,
            "precision": self.config.precision,
            "version": {
                decoder.origin.distribution: decoder.origin.version,
                "kgen": importlib.metadata.version(CORE),
            },
            **text,
        }

    def reuse_previous(self, older: Path, log: Log) -> None:
        """Copies the decoder of a renamed older run, if nothing that it depends on has changed."""
        there = RunDirectory(older).decoder_stage
        before = there.read_manifest()
        if not before.get("finished"):
            return
        if changed := self._changed(before.get("depends_on", {})):
            log(f"the decoder is trained again, as this has changed since {older}:\n  " + "\n  ".join(changed))
            return
        log(f"the decoder is that of {older}: nothing that it depends on has changed")
        _copy(there.path, self.directory.path)

    def check(self, changed_data: bool = False) -> None:
        """Raises RunError if the decoder in the folder, which may be unfinished, depends on something else.

        Args:
            changed_data: Whether the images may have changed. The manifest is then updated.
        """
        before = self.directory.read_manifest().get("depends_on")
        if before and (changed := self._changed(before, changed_data)):
            raise RunError(
                f"{self.directory.path} was trained on something else:\n  "
                + "\n  ".join(changed)
                + (DATA_HINT if any(line.startswith(FINGERPRINT) for line in changed) else "")
                + "\nstart again with --restart"
            )
        if before and changed_data:
            self.directory.update_manifest(depends_on=self.depends_on())

    def _changed(self, before: dict[str, Any], changed_data: bool = False) -> list[str]:
        """The changes of the dependencies of a decoder, one line each."""
        found = [change for change in changes(before, self.depends_on()) if change.affects_training]
        return [str(change) for change in found if not (changed_data and change.key == FINGERPRINT)]

    # ---- making a decoder -----------------------------------------------------------------------------------------

    def new(self) -> Decoder:
        """The decoder of the configuration, with new weights."""
        return make_decoder(self.config.decoder.choice, self.dataset.image_space, self.encoder.condition_space)

    def load(self) -> Decoder:
        """The trained decoder."""
        return load_decoder(self.directory.model, self.new())

    def import_from_run(self, log: Log) -> Decoder:
        """Copies the decoder of the run in `decoder.from`; raises RunError if that run has no trained decoder."""
        source = RunDirectory(str(self.config.decoder.source))
        if not source.decoder_stage.read_manifest().get("finished"):
            raise RunError(f"{source.path} has no trained decoder: give 'kgen run' for it first, or another 'from'")
        log(f"the decoder is that of {source.path}")
        decoder = load_decoder(source.decoder_stage.model, self.new())  # fails now, or never
        _copy(source.decoder_stage.path, self.directory.path)
        return decoder

    def calibrate(self, log: Log) -> Decoder:
        """Initializes and calibrates a decoder without losses on the images."""
        seed_everything(self.config.seed)
        decoder = self.new()
        decoder.build(None)
        self._begin()
        log(f"the decoder: calibrated on {len(self.dataset.captions('train'))} images, without training")
        began = time.perf_counter()
        decoder.initialize(SplitImages(self.dataset, "train"))
        return self._finish(decoder, 0, time.perf_counter() - began)

    def train(self, trainer: Trainer) -> Decoder:
        """Trains the decoder, or continues its training."""
        fit = self.config.decoder.fit
        assert fit is not None
        seed_everything(self.config.seed)
        with trainer.distribution.scope():
            model = DecoderModel(self.new(), self.encoder)
            start = None if self.directory.newest_step else self._first_weights(model.decoder)
            freeze(model, fit.frozen, trainable=fit.trainable)
        self._begin()
        images = len(self.dataset.captions("train"))
        trainer.log(f"the decoder: {images} images, {count_weights(model):,} weights to train")
        if start is not None and start.sources:
            self.directory.update_manifest(init=start.describe())
            for line in start.lines():
                trainer.log(f"the decoder: {line}")
        inputs = Inputs(self.dataset, model.encoder, flip=fit.flip, workers=fit.workers)
        render = self.gallery.renderer(model.decoder, self.directory)
        progress = trainer.train(model, fit, self.directory.path, inputs, render, decoder=True)
        with averaged_weights(model):
            return self._finish(model.decoder, progress.step, progress.seconds)

    def _first_weights(self, decoder: Decoder) -> Start:
        """Initializes a decoder, and loads the weights that `decoder.init` specifies."""
        decoder.initialize(SplitImages(self.dataset, "train"))
        return load_initial_decoder(self.config.decoder.init, decoder)

    def _begin(self) -> None:
        self.directory.path.mkdir(exist_ok=True)
        self.directory.update_manifest(depends_on=self.depends_on())

    def _finish(self, trained: Decoder, step: int, seconds: float) -> Decoder:
        """Calibrates and saves the decoder. Scores and returns the saved decoder."""
        trained.calibrate(SplitImages(self.dataset, "train"))
        save_decoder(trained, self.directory.model)
        decoder = self.load()
        self.gallery.save_sheet(decoder, self.directory.final_grid)
        self.directory.update_manifest(
            step=step,
            timings={"training_seconds": round(seconds, 1)},
            scores=self.gallery.scores(decoder),
            finished=time.strftime("%Y-%m-%d %H:%M:%S"),
        )
        return decoder


def _copy(source: Path, target: Path) -> None:
    """Copies a folder; raises RunError if it contains symbolic links, which may lead anywhere."""
    if links := [name for name in files_in(source) if (source / name).is_symlink()]:
        raise RunError(f"{source / links[0]} is a symbolic link, which is not copied: put the file itself there")
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
