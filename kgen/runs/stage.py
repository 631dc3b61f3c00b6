"""A stage before the generator's training. It trains the encoder or decoder of a run, or copies a trained one."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from kgen.config import RunConfig, StagedConfig
from kgen.config.changes import changes
from kgen.config.staged import Staged
from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.errors import RunError
from kgen.experiments.directory import RunDirectory
from kgen.experiments.experiment import is_imported, trained_part
from kgen.experiments.initial import Start, with_initial_lora
from kgen.experiments.inputs import Inputs
from kgen.experiments.trainer import Log, Trainer, describe_weights
from kgen.parts.construction import find
from kgen.parts.lora_files import save_lora
from kgen.parts.trained import select_trained
from kgen.pipeline.model import Pipeline
from kgen.pipeline.stage_models import DecoderModel, EncoderModel
from kgen.plugins.discovery import CORE
from kgen.random import seed_everything
from kgen.storage.files import atomic_folder, files_in
from kgen.training.averages import averaged_weights
from kgen.training.outputs import Sheets

Part = TypeVar("Part", bound=Encoder | Decoder)
StageModel = EncoderModel | DecoderModel

FINGERPRINT = "data.images"
"""The key of the images' fingerprint in `depends_on`."""

DATA_HINT = "\nthe images or captions have changed: continue with the changed data with --changed-data"


class Stage(ABC, Generic[Part]):
    """The training of a run's encoder or decoder. Its files are in the folder `encoder` or `decoder` of the run.

    Args:
        config: The configuration of the run.
        run: The run directory.
        dataset: The dataset of the training: the part's own `data`, or else the run's.
        encoder: The encoder of the run.

    Attributes:
        kind: The kind of the trained part.
    """

    kind: ClassVar[Staged]

    def __init__(self, config: RunConfig, run: RunDirectory, dataset: Dataset, encoder: Encoder) -> None:
        self.config = config
        self.own: StagedConfig = getattr(config, self.kind)
        self.run = run
        self.directory = run.stage(self.kind)
        self.dataset = dataset
        self.encoder = encoder

    def prepare(self, trainer: Trainer, older: Path | None = None, changed_data: bool = False) -> Part:
        """Returns the trained part. It trains the part only if there is none yet.

        Args:
            trainer: The trainer of the run.
            older: A renamed older run. Its part is reused if nothing that it depends on has changed.
            changed_data: Whether to continue if images have changed.

        Raises:
            RunError: the part in the folder was trained on something else, or the run in `from` has not trained one.
            RunInterruptedError: the user pressed Ctrl-C.
        """
        devices = trainer.distribution
        imports = self.own.source is not None
        if devices.is_chief and not imports:
            if older is not None:
                self.reuse_previous(older, trainer.log)
            self.check(changed_data)
        devices.wait()
        finished = self.finished
        devices.wait()  # until all workers know it, so that all do the same
        if finished:
            return self.load()
        if imports:
            return devices.by_chief(lambda: self.import_from_run(trainer.log), self.load)
        return self.make(trainer)

    # ---- methods of the subclasses ---------------------------------------------------------------------------------

    @abstractmethod
    def load_from(self, stage: RunDirectory) -> Part:
        """Loads the trained part from the folder of a stage, of this run or of another one."""

    @abstractmethod
    def new_model(self) -> StageModel:
        """Makes a new part, and the model that trains it."""

    @abstractmethod
    def first_weights(self, part: Part) -> Start:
        """Initializes a new part, and loads the weights that its `init` specifies."""

    @abstractmethod
    def save(self, part: Part) -> None:
        """Saves a trained part."""

    @abstractmethod
    def scores(self, part: Part) -> dict[str, Any]:
        """Returns the scores of a trained part, for the report."""

    def sheets(self, part: Part) -> Sheets | None:
        """The sheets of sample images during the training. Default: None; there are none."""
        return None

    def make(self, trainer: Trainer) -> Part:
        """Makes the trained part. Default: trains it."""
        return self.train(trainer)

    def put_into(self, pipeline: Pipeline, part: Part) -> Pipeline:
        """Returns the pipeline with the trained part. Default: the pipeline already has it."""
        return pipeline

    # ---- existing parts -------------------------------------------------------------------------------------------

    def load(self) -> Part:
        """Loads the trained part of this run."""
        return self.load_from(self.directory)

    @property
    def finished(self) -> bool:
        return bool(self.directory.read_manifest().get("finished"))

    def depends_on(self) -> dict[str, Any]:
        """Everything that determines the trained part. If it has not changed, the part is not trained again."""
        own, component = self.own, find(self.kind, self.own.name)[0]
        return {
            self.kind: {
                **own.choice,
                "fit": own.fit and own.fit.dump(),
                **({"init": [source.dump() for source in own.init]} if own.init else {}),
            },
            "data": {"images": self.dataset.fingerprint(), **(own.data or self.config.data).dump()},
            "seed": self.config.seed,
            "precision": self.config.precision,
            "version": {
                component.origin.distribution: component.origin.version,
                "kgen": importlib.metadata.version(CORE),
            },
        }

    def reuse_previous(self, older: Path, log: Log) -> None:
        """Copies the part of a renamed older run, if nothing that it depends on has changed.

        The files of a part that is only imported are read again, because they may have changed.
        """
        if is_imported(self.config, self.kind):
            return
        there = RunDirectory(older).stage(self.kind)
        before = there.read_manifest()
        if not before.get("finished"):
            return
        if changed := self._changed(before.get("depends_on", {})):
            log(f"the {self.kind} is trained again, because this has changed since {older}:\n  " + "\n  ".join(changed))
            return
        log(f"the {self.kind} is that of {older}: nothing that it depends on has changed")
        copy_stage(there.path, self.directory.path)

    def check(self, changed_data: bool = False) -> None:
        """Raises RunError if the part in the folder was trained on something else. It may be unfinished.

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
        """Describes what has changed of all that the part depends on, one line each."""
        found = [change for change in changes(before, self.depends_on()) if change.affects_training]
        return [str(change) for change in found if not (changed_data and change.key == FINGERPRINT)]

    def import_from_run(self, log: Log) -> Part:
        """Copies the part of the run in `from`; raises RunError if that run has not trained it."""
        source = trained_part(str(self.own.source), self.kind)
        log(f"the {self.kind} is that of {source.path.parent}")
        part = self.load_from(source)  # raises an error before anything is copied
        copy_stage(source.path, self.directory.path)
        return part

    # ---- training -------------------------------------------------------------------------------------------------

    def train(self, trainer: Trainer) -> Part:
        """Trains the part, or continues its training."""
        fit = self.own.fit
        assert fit is not None
        seed_everything(self.config.seed)
        with trainer.distribution.scope():
            model = self.new_model()
            part: Part = getattr(model, self.kind)
            start = None if self.directory.newest_step else self.first_weights(part)
            select_trained(model, fit)
            if start is not None:
                start = with_initial_lora(start, f"{self.kind}.fit", fit, model)
        if trainer.distribution.is_chief:
            self.begin()
        images = len(self.dataset.captions("train"))
        trainer.log(f"the {self.kind}: {images} images, {describe_weights(model)}")
        if start:
            if trainer.distribution.is_chief:
                self.directory.update_manifest(init=start.describe())
            for line in start.lines():
                trainer.log(f"the {self.kind}: {line}")
        inputs = Inputs(self.dataset, model.encoder, flip=fit.flip, workers=fit.workers)
        progress = trainer.train(model, fit, self.directory.path, inputs, self.sheets(part), stage=self.kind)

        def save() -> Part:
            with averaged_weights(model):
                if fit.lora is not None:
                    save_lora(model, self.directory.lora)
                return self.finish(part, progress.step, progress.seconds)

        return trainer.distribution.by_chief(save, self.load)

    def begin(self) -> None:
        """Creates the folder, and records what the part depends on."""
        self.directory.path.mkdir(exist_ok=True)
        self.directory.update_manifest(depends_on=self.depends_on())

    def finish(self, trained: Part, step: int, seconds: float) -> Part:
        """Saves a trained part, and records its scores. Returns the saved part."""
        self.save(trained)
        part = self.load()
        scores = self.scores(part)
        self.directory.update_manifest(
            step=step,
            timings={"training_seconds": round(seconds, 1)},
            scores=scores,
            finished=time.strftime("%Y-%m-%d %H:%M:%S"),
        )
        return part


def copy_stage(source: Path, target: Path) -> None:
    """Copies a folder. Raises RunError if it contains a symbolic link, because such a link may lead anywhere."""
    if links := [name for name in files_in(source) if (source / name).is_symlink()]:
        raise RunError(f"{source / links[0]} is a symbolic link, which is not copied: put the file itself there")
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
