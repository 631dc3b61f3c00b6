"""The stage before the generator's training: a decoder is trained, or taken from where it was trained already."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgen.config import RunConfig
from kgen.config.changes import changes
from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.decoder import Decoder, learns_from_images
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import EncoderInputs
from kgen.errors import RunError
from kgen.pipeline.assembly import find, make_decoder
from kgen.pipeline.decoder_model import DecoderModel, Reconstructor, reads_text
from kgen.pipeline.saving import load_decoder, save_decoder
from kgen.pixels import to_uint8
from kgen.plugins.discovery import CORE
from kgen.random import seed_everything
from kgen.reporting.sheets import matrix, save_png
from kgen.runs.directory import RunDirectory
from kgen.runs.inputs import Inputs, eval_split
from kgen.storage.files import atomic_folder, files_in
from kgen.training.averages import averaged_weights
from kgen.training.checkpoint import Checkpoints
from kgen.training.distribution import Distribution
from kgen.training.fit import Progress, compile_model, train
from kgen.training.journal import Journal, Listener

Log = Callable[[str], None]

SHOWN = 8
"""Images on a sheet of reconstructions."""

MAX_SCORED = 512
"""Images that a trained decoder is scored on."""

BATCH = 32

FINGERPRINT = "data.images"
"""Where `depends_on` holds the fingerprint of the images."""

DATA_HINT = "\nthe images or captions have changed: --changed-data goes on with them as they are now"


def needs_stage(config: RunConfig) -> bool:
    """Whether a run's own stage trains or calibrates its decoder."""
    cls = find("decoder", config.decoder.name)[0].load()
    return config.decoder.source is None and learns_from_images(cls)


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

    @property
    def reads_text(self) -> bool:
        """Whether the decoder is given the encoder's conditions."""
        return reads_text(find("decoder", self.config.decoder.name)[0].load())

    # ---- what there is already ------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        return bool(self.directory.read_manifest().get("finished"))

    def depends_on(self) -> dict[str, Any]:
        """All that the trained decoder is a function of: if it is as it was, there is nothing to train."""
        own, decoder = self.config.decoder, find("decoder", self.config.decoder.name)[0]
        text = {"encoder": self.config.encoder.dump()} if self.reads_text else {}
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

    def decoder(self, load: bool = False) -> Decoder:
        """The decoder; with `load` as it was trained."""
        own = self.config.decoder
        decoder = make_decoder(own.choice, self.dataset.image_space, self.encoder.condition_space)
        return load_decoder(self.directory.model, decoder) if load else decoder

    def import_from_run(self, log: Log) -> None:
        """Copies the decoder of the run that the configuration says it is from. Raises RunError where it has none."""
        if self.finished:
            return
        source = RunDirectory(str(self.config.decoder.source))
        if not source.decoder_stage.read_manifest().get("finished"):
            raise RunError(f"{source.path} has no trained decoder: give 'kgen run' for it first, or another 'from'")
        log(f"the decoder is that of {source.path}")
        load_decoder(source.decoder_stage.model, self.decoder())  # fails now, or never
        _copy(source.decoder_stage.path, self.directory.path)

    def calibrate(self, log: Log, changed_data: bool = False) -> Progress:
        """Shows the images to a decoder that has no losses to train by; see `train`."""
        self.check(changed_data)
        if self.finished:
            return self._progress()
        seed_everything(self.config.seed)
        decoder = self.decoder()
        decoder.build(None)
        self._begin()
        log(f"the decoder: calibrated on {len(self.dataset.captions('train'))} images, without training")
        began = time.perf_counter()
        decoder.initialize(SplitImages(self.dataset, "train"))
        self._finish(decoder, Progress(0, False, time.perf_counter() - began))
        return self._progress()

    def _begin(self) -> None:
        self.directory.path.mkdir(exist_ok=True)
        self.directory.update_manifest(depends_on=self.depends_on())

    def _progress(self) -> Progress:
        """Of the stage, where it is finished."""
        manifest = self.directory.read_manifest("step", "timings")
        return Progress(manifest["step"], False, manifest["timings"]["training_seconds"])

    def train(
        self, distribution: Distribution, log: Log, listener: Listener | None, changed_data: bool = False
    ) -> Progress:
        """Trains it, or goes on with its training, on changed images only with `changed_data`."""
        fit = self.config.decoder.fit
        assert fit is not None
        self.check(changed_data)
        if self.finished:
            return self._progress()
        seed_everything(self.config.seed)
        with distribution.scope():
            model = DecoderModel(self.decoder(), self.encoder)
            compile_model(model, fit)
        if distribution.is_chief:
            self._begin()
        weights = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        log(f"the decoder: {len(self.dataset.captions('train'))} images, {weights:,} weights to train")
        if not Checkpoints(self.directory.checkpoints, fit.keep).steps():
            model.decoder.initialize(SplitImages(self.dataset, "train"))
        inputs = Inputs(self.dataset, model.encoder, flip=fit.flip)
        alone = distribution.workers == 1
        progress = train(
            model,
            fit,
            self.directory.path,
            data=inputs.loader("train", fit.batch_size, distribution.worker, distribution.workers),
            validation=inputs.validation_loader(fit.batch_size) if alone else None,
            distribution=distribution,
            seed=self.config.seed,
            sample_every=self.config.sample.every,
            render=self._renderer(model) if alone else None,
            listeners=[listener] if listener else [],
        )
        if distribution.is_chief and not progress.interrupted:
            with averaged_weights(model):
                self._finish(model.decoder, progress)
        return progress

    def _finish(self, trained: Decoder, progress: Progress) -> None:
        """Calibrates the decoder, writes it, and scores what was written."""
        trained.calibrate(SplitImages(self.dataset, "train"))
        save_decoder(trained, self.directory.model)
        decoder = self.decoder(load=True)
        self._sheet(Reconstructor(decoder, self.encoder), self.directory.final_grid)
        self.directory.update_manifest(
            step=progress.step,
            timings={"training_seconds": round(progress.seconds, 1)},
            scores=self.scores(decoder),
            finished=time.strftime("%Y-%m-%d %H:%M:%S"),
        )

    # ---- looking at it --------------------------------------------------------------------------------------------

    def _images(self, split: Any, count: int) -> tuple[np.ndarray, list[Any], list[str]]:
        """At most `count` images of a split, evenly taken, the encoder's inputs beside them, and their captions."""
        captions = self.dataset.captions(split)
        rows = [int(i) for i in np.linspace(0, len(captions) - 1, min(count, len(captions)))]
        images = np.stack([self.dataset.image(split, row) for row in rows])
        inputs = EncoderInputs(self.dataset, split, self.encoder.fields if self.reads_text else ("caption",))
        return images, [inputs[row] for row in rows], [captions[row] for row in rows]

    def scores(self, decoder: Decoder) -> dict[str, Any]:
        """What the decoder says of itself, and its reconstructions' PSNR, on images that it has not seen."""
        split = eval_split(self.dataset) or "train"
        images, prompts, _ = self._images(split, MAX_SCORED)
        reconstructor = Reconstructor(decoder, self.encoder)
        latents, made = reconstructor.reconstruct(images, prompts)
        found = {"images": f"{len(images)} ({split})", "PSNR": psnr(images, made)}
        if decoder.latent_is_image:
            again = reconstructor.reconstruct(made, prompts)[0]
            found["encoded again, mean absolute error"] = float(np.abs(again - latents).mean())
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        return found | {name: float(value) for name, value in decoder.scores(batches).items()}

    def _renderer(self, model: DecoderModel) -> Callable[[int, str, Journal], None]:
        reconstructor = Reconstructor(model.decoder, self.encoder)

        def render(step: int, suffix: str, journal: Journal) -> None:
            sheet = self._sheet(reconstructor, self.directory.samples / f"step-{step:08d}{suffix}.png")
            buffer = io.BytesIO()
            sheet.save(buffer, format="PNG")
            journal.image(step, f"reconstructions{suffix}", buffer.getvalue(), sheet.size)

        return render

    def _sheet(self, reconstructor: Reconstructor, path: Path) -> Any:
        images, prompts, captions = self._images(eval_split(self.dataset) or "train", SHOWN)
        sheet, _ = reconstructions(reconstructor, images, prompts, captions)
        save_png(path, sheet, {"model": self.config.name})
        return sheet


def reconstructions(
    reconstructor: Reconstructor, images: np.ndarray, prompts: Sequence[Any], captions: list[str], seed: int = 0
) -> tuple[Any, np.ndarray]:
    """Images uint8 (N, H, W, C), encoded and decoded.

    Args:
        prompts: N inputs of the encoder, for a decoder that reads them.
        captions: N texts, which the sheet shows.

    Returns:
        A sheet of the images, their latents where those can be looked at, and what is decoded of these; and the
        latter, uint8 (N, H, W, C).
    """
    latents, made = reconstructor.reconstruct(images, prompts, seed=seed)
    rows, names = [images, made], ["image", "decoded"]
    if reconstructor.decoder.latent_is_image:
        rows.insert(1, _enlarged(latents, images.shape[1:3]))
        names.insert(1, "latent")
    return matrix(rows, names, captions), made


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """The mean over images uint8 (N, H, W, C) of the peak signal-to-noise ratio, in dB."""
    error = np.square(images.astype(np.float64) - others).mean(axis=(1, 2, 3))
    return float(np.mean(10.0 * np.log10(255.0**2 / np.maximum(error, 1e-10))))


def _enlarged(latents: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Latents (N, h, w, C) in [-1, 1] as images uint8 of `size`, each number a square of pixels."""
    factor = size[0] // latents.shape[1]
    return to_uint8(latents.repeat(factor, axis=1).repeat(factor, axis=2))


class SplitImages:
    """All images of a split, in batches uint8 (B, H, W, C). It can be iterated several times."""

    def __init__(self, dataset: Dataset, split: Split) -> None:
        self.dataset, self.split = dataset, split

    def __iter__(self) -> Iterator[np.ndarray]:
        count = len(self.dataset.captions(self.split))
        for start in range(0, count, BATCH):
            rows = range(start, min(start + BATCH, count))
            yield np.stack([self.dataset.image(self.split, row) for row in rows])


def _copy(source: Path, target: Path) -> None:
    """Copies a folder. Raises RunError where it holds symbolic links, which may lead to anything."""
    if links := [name for name in files_in(source) if (source / name).is_symlink()]:
        raise RunError(f"{source / links[0]} is a symbolic link, which is not copied: put the file itself there")
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
