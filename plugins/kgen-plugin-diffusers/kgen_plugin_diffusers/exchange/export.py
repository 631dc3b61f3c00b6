"""Writes the parts of a run that diffusers can hold."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kgen
from kgen import ConfigError, RunError
from kgen.options import names_of, part
from kgen_plugin_diffusers.exchange.card import model_card
from kgen_plugin_diffusers.exchange.model import Model
from kgen_plugin_diffusers.exchange.schedule import scheduler_of

KIND = "diffusers.model"

SCHEDULE = "noise schedule"
"""What the scheduler of a generator is called beside the parts of a pipeline."""


def export(run: Path, folder: Path) -> tuple[dict[str, Model], dict[str, str]]:
    """Writes each part of a run that diffusers can hold to a folder of its own in `folder`, with a model card.

    For a generator that has a noise schedule, there is a scheduler, too.

    Args:
        run: A run directory, in which at least the decoder is trained, or a saved pipeline.
        folder: The folder to make, which may exist if it is empty.

    Returns:
        The models that were written, by the name of the part, and for each other part the reason why it was not.

    Raises:
        ConfigError: diffusers can hold no part; or the folder has files.
        RunError: `run` holds no trained part.
    """
    _require_free(folder)
    models: dict[str, Model] = {}
    parts, reasons = trained_parts(run)
    for name, trained in parts.items():
        _add(models, reasons, name, _converted, trained)
    if "generator" in models and hasattr(parts["generator"], "schedule"):
        _add(models, reasons, SCHEDULE, scheduler_of, parts["generator"])
    if not models:
        raise ConfigError(
            "\n".join([f"{run} has no part that diffusers can hold:", *(f"  {n}: {why}" for n, why in reasons.items())])
        )
    with _new_folder(folder) as made:
        for model in models.values():
            model.save(made / model.part)
        card = model_card(run, models, reasons)
        (made / "README.md").write_text(card, encoding="utf-8")
    return models, reasons


def trained_parts(run: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The trained parts of a run or of a saved pipeline, by name, and for the others the reason why they are not."""
    try:
        pipeline = kgen.load(run)
    except RunError as error:
        try:
            return {"decoder": kgen.open_decoder(run)[0]}, dict.fromkeys(("encoder", "generator"), str(error))
        except RunError:
            raise error from None
    return {"encoder": pipeline.encoder, "generator": pipeline.generator, "decoder": pipeline.decoder}, {}


def _add(
    models: dict[str, Model], reasons: dict[str, str], name: str, convert: Callable[[Any], Model], trained: Any
) -> None:
    """Adds the model of a part, or the reason why there is none."""
    try:
        models[name] = convert(trained)
    except ConfigError as error:
        reasons[name] = str(error)


def _converted(trained: Any) -> Model:
    """Raises ConfigError if no conversion knows the part, or if diffusers' class cannot compute the same."""
    for name in names_of(KIND):
        model: Model | None = part(KIND, name)(trained)
        if model is not None:
            return model
    raise ConfigError(f"no plugin converts {type(trained).__name__} to a model of diffusers")


def _require_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists, and is not an empty folder: choose another name")


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside the given one that takes its place at the end, so that no half of an export remains."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        made = temporary / "new"
        made.mkdir()
        yield made
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
