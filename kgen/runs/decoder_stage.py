"""The stage before the generator's training: a decoder is trained, or taken from where it was trained already."""

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
from kgen.pipeline.assembly import find, make_decoder
from kgen.pipeline.decoder_model import DecoderModel, reads_text
from kgen.pipeline.saving import load_decoder, save_decoder
from kgen.plugins.discovery import CORE
from kgen.random import seed_everything
from kgen.runs.directory import RunDirectory
from kgen.runs.inputs import Inputs, SplitImages
from kgen.runs.reconstructions import Reconstructions
from kgen.runs.trainer import Log, Trainer, count_weights
from kgen.storage.files import atomic_folder, files_in
from kgen.training.averages import averaged_weights
from kgen.training.checkpoint import Checkpoints

FINGERPRINT = "data.images"
"""Where `depends_on` holds the fingerprint of the images."""

DATA_HINT = "\nthe images or captions have changed: --changed-data goes on with them as they are now"


class DecoderStage:
    """A run's decoder, in the folder `decoder/` of the run directory.

    Args:
        config: Of the whole run.
        directory: Of the whole run.
        dataset: What the decoder is trained on: its own data, if it has any, else the run's.
        encoder: The run's, for a decoder that reads the text.
    """

    def __init__(self, config: RunConfig, directory: RunDirectory, dataset: Dataset, encoder: Encoder) -> None:
        self.config = config
        self.directory = directory.decoder_stage
        self.dataset = dataset
        self.encoder = encoder
        self.gallery = Reconstructions(config.name, dataset, encoder)

    def prepare(self, trainer: Trainer, older: Path | None = None, changed_data: bool = False) -> Decoder:
        """The trained decoder: trained now, or further, or taken from where it is.

        Args:
            older: A run that was moved aside, to take the decoder from if it would be the same.
            changed_data: Whether to go on with images that have changed.

        Raises:
            RunError: what lies in the folder was trained on something else; the other run has no trained decoder.
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

    # ---- what there is already ------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        return bool(self.directory.read_manifest().get("finished"))

    def depends_on(self) -> dict[str, Any]:
        """All that the trained decoder is a function of: if it is as it was, there is nothing to train."""
        own, decoder = self.config.decoder, find("decoder", self.config.decoder.name)[0]
        text = {"encoder": self.config.encoder.dump()} if reads_text(decoder.load()) else {}
        return {
            "decoder": {**own.choice, "fit": own.fit and own.fit.model_dump(mode="json")},
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
        """Takes the decoder of an older run of this configuration that was moved aside, if it would be the same."""
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
        """Raises RunError where the decoder in the folder, whole or half trained, is one of something else.

        Args:
            changed_data: Whether the images may have changed; the manifest then holds them as they are now.
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
        """What differs from what a decoder depended on, a line each."""
        found = [change for change in changes(before, self.depends_on()) if change.affects_training]
        return [str(change) for change in found if not (changed_data and change.key == FINGERPRINT)]

    # ---- coming by a decoder --------------------------------------------------------------------------------------

    def new(self) -> Decoder:
        """The decoder as its configuration says, with fresh weights."""
        return make_decoder(self.config.decoder.choice, self.dataset.image_space, self.encoder.condition_space)

    def load(self) -> Decoder:
        """The decoder as it was trained."""
        return load_decoder(self.directory.model, self.new())

    def import_from_run(self, log: Log) -> Decoder:
        """Copies the decoder of the run that the configuration says it is from. Raises RunError where it has none."""
        source = RunDirectory(str(self.config.decoder.source))
        if not source.decoder_stage.read_manifest().get("finished"):
            raise RunError(f"{source.path} has no trained decoder: give 'kgen run' for it first, or another 'from'")
        log(f"the decoder is that of {source.path}")
        decoder = load_decoder(source.decoder_stage.model, self.new())  # fails now, or never
        _copy(source.decoder_stage.path, self.directory.path)
        return decoder

    def calibrate(self, log: Log) -> Decoder:
        """Shows the images to a decoder that has no losses to train by."""
        seed_everything(self.config.seed)
        decoder = self.new()
        decoder.build(None)
        self._begin()
        log(f"the decoder: calibrated on {len(self.dataset.captions('train'))} images, without training")
        began = time.perf_counter()
        decoder.initialize(SplitImages(self.dataset, "train"))
        return self._finish(decoder, 0, time.perf_counter() - began)

    def train(self, trainer: Trainer) -> Decoder:
        """Trains it, or goes on with its training."""
        fit = self.config.decoder.fit
        assert fit is not None
        seed_everything(self.config.seed)
        with trainer.distribution.scope():
            model = DecoderModel(self.new(), self.encoder)
        self._begin()
        images = len(self.dataset.captions("train"))
        trainer.log(f"the decoder: {images} images, {count_weights(model):,} weights to train")
        if not Checkpoints(self.directory.checkpoints, fit.keep).steps():
            model.decoder.initialize(SplitImages(self.dataset, "train"))
        inputs = Inputs(self.dataset, model.encoder, flip=fit.flip)
        render = self.gallery.renderer(model.decoder, self.directory)
        progress = trainer.train(model, fit, self.directory.path, inputs, render, decoder=True)
        with averaged_weights(model):
            return self._finish(model.decoder, progress.step, progress.seconds)

    def _begin(self) -> None:
        self.directory.path.mkdir(exist_ok=True)
        self.directory.update_manifest(depends_on=self.depends_on())

    def _finish(self, trained: Decoder, step: int, seconds: float) -> Decoder:
        """Calibrates the decoder and writes it; scores and returns what was written."""
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
    """Copies a folder. Raises RunError where it holds symbolic links, which may lead to anything."""
    if links := [name for name in files_in(source) if (source / name).is_symlink()]:
        raise RunError(f"{source / links[0]} is a symbolic link, which is not copied: put the file itself there")
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
