"""Loaded models, of which a program that generates many times keeps some."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from kgen.backend.programs import Programs
from kgen.parts.lora_files import load_lora
from kgen.pipeline.decoding.variations import Variations
from kgen.pipeline.loading import load
from kgen.pipeline.model import Pipeline
from kgen.runs.run import open_decoder


class ModelCache:
    """Loads the models of runs, and keeps those that were used last.

    A model that a training has replaced since is loaded again.

    Args:
        capacity: Number of models to keep, from 1.
    """

    def __init__(self, capacity: int = 1) -> None:
        self._models = Programs(capacity)

    def pipeline(self, run: Path, loras: tuple[tuple[Path, float], ...] = ()) -> Pipeline:
        """The pipeline of a run, to whose weights LoRA files are added, each with its scale.

        Raises:
            RunError: there is no trained pipeline, or it is damaged.
            ConfigError: a plugin that it needs is missing.
        """

        def loaded() -> Pipeline:
            pipeline = load(run)
            for file, scale in loras:
                load_lora(pipeline, file, scale=scale)
            return pipeline

        changed = tuple(file.stat().st_mtime_ns for file, _ in loras)
        model: Pipeline = self._get(run, ("pipeline", loras, changed), loaded)
        return model

    def variations(self, run: Path) -> Variations:
        """The decoder of a run, which decodes embeddings of images, and its encoder.

        Raises:
            RunError: there is no trained decoder.
            ConfigError: it does not decode embeddings of images.
        """
        model: Variations = self._get(run, ("variations",), lambda: Variations(*open_decoder(run)))
        return model

    def _get(self, run: Path, kind: tuple[Hashable, ...], load: Callable[[], Any]) -> Any:
        model = run / "model"
        saved = model if model.is_dir() else run
        written = saved.stat().st_mtime_ns if saved.exists() else None
        return self._models.get((str(run.resolve()), written, *kind), load)
