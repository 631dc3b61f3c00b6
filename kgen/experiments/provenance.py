"""Records the components, the software and the data of a run in `manifest.json`."""

from __future__ import annotations

import importlib.metadata
import platform

import keras

from kgen.config import RunConfig
from kgen.config.components import PARTS
from kgen.contracts.dataset import Dataset
from kgen.contracts.generator import Generator
from kgen.data.inventory import changes, read_inventory, write_inventory
from kgen.errors import RunError
from kgen.experiments.directory import RunDirectory
from kgen.plugins.discovery import CORE, registry
from kgen.storage.paths import weight_paths
from kgen.storage.weights import checksum_of


def describe(config: RunConfig, directory: RunDirectory, dataset: Dataset) -> None:
    """Writes the components, the software and the data of a run to its manifest."""
    write_inventory(dataset, directory.inventory)
    directory.update_manifest(
        name=config.name,
        seed=config.seed,
        software=software(keras.backend.backend()),
        components={kind: _origin(kind, getattr(config, key).name) for key, kind in PARTS.items()},
        metrics=[_origin("metric", metric.name) for metric in config.evaluate.metrics],
        optimizer=_origin("optimizer", config.fit.optimizer.name),
        callbacks=[_origin("callback", callback.name) for callback in config.fit.callbacks],
        loggers=[_origin("logger", logger.name) for logger in config.loggers],
        encoders=[_origin("encoder", joined.name) for joined in config.encoder.joined],
        data={
            "fingerprint": dataset.fingerprint(),
            "images": len(dataset.captions("train")),
            "validation": len(dataset.captions("validation")),
            "held_out": len(dataset.captions("holdout")),
            "skipped": _lines(dataset),
            "credit": dataset.credit,
        },
    )


def changed_weights(directory: RunDirectory, generator: Generator) -> str:
    """Says if the generator's weights before the training are not those of an earlier start; "" if they are.

    The seed and files, such as those of `pretrained`, determine them. Their checksum is in the manifest. It is compared
    until there is a checkpoint, and only with the same software.
    """
    if directory.newest_step:
        return ""
    manifest = directory.read_manifest()
    before, now = manifest.get("initial_weights"), checksum_of(weight_paths(generator, generator.weights))
    directory.update_manifest(initial_weights=now)
    if before in (None, now) or manifest.get("software") != software(keras.backend.backend()):
        return ""
    return "the generator's first weights are not those of the last start: a file that it reads has changed"


def changed_backend(directory: RunDirectory) -> str:
    """Says if a run that has a checkpoint continues on another backend; "" if not. The manifest records the older one.

    Call it before `describe`, which records the present software.
    """
    before = directory.read_manifest().get("software", {})
    own, now = before.get("backend"), keras.backend.backend()
    parts = (directory, directory.encoder_stage, directory.decoder_stage)
    if own in (None, now) or not any(part.newest_step for part in parts):
        return ""
    note = f"the backend was {own} before, and is {now} now"
    directory.record(changed=[note], software=before)
    return (
        f"{note}: the results differ slightly from those of a single backend. KERAS_BACKEND={own} continues as before"
    )


def record_skipped(directory: RunDirectory, dataset: Dataset) -> list[str]:
    """Adds images that were found damaged during the training to the manifest, and returns lines about them."""
    data = directory.read_manifest().get("data", {})
    known = data.get("skipped", [])
    new = [line for line in _lines(dataset) if line not in known]
    if new:
        directory.update_manifest(data={**data, "skipped": [*known, *new]})
    return new


def _lines(dataset: Dataset) -> list[str]:
    return [f"{problem.where}: {problem.what}" for problem in dataset.problems()]


def changed_data(directory: RunDirectory, dataset: Dataset, allowed: bool) -> str:
    """Says how the data differ from those at the beginning of a run; "" if they are equal, or if the run is new.

    Raises:
        RunError: the data differ, which is not `allowed`.
    """
    data = directory.read_manifest().get("data", {})
    if data.get("fingerprint", now := dataset.fingerprint()) == now:
        return ""
    before = read_inventory(directory.inventory)
    what = "" if before is None else changes(before, dataset.inventory())
    what = what or "what has changed is not known"
    if not allowed:
        raise RunError(
            f"the images or captions have changed since {directory.path} began: {what}. Continue with the changed data "
            "with --changed-data, or train again with 'kgen run' and --restart, which renames the old run"
        )
    return what


def software(backend: str) -> dict[str, str]:
    """The versions of the software of a run."""
    packages = [CORE, "keras", "numpy", "grain", "pillow", "simplejpeg", backend]
    return {"python": platform.python_version(), "backend": backend} | {
        name: importlib.metadata.version(name) for name in packages
    }


def _origin(kind: str, name: str) -> dict[str, str]:
    component = registry().find(kind, name)
    return {
        "id": component.id,
        "distribution": component.origin.distribution,
        "version": component.origin.version,
    }
