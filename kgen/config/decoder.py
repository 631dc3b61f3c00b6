"""A decoder in a configuration: the component, and its training before the generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic

from kgen.config.components import ComponentConfig, resolve
from kgen.config.fit import resolve_fit
from kgen.config.sections import FitConfig, InitConfig, as_sources
from kgen.config.source import Source, read_file
from kgen.errors import ConfigError
from kgen.options.validation import KeyPath, dotted, show

STAGE_KEYS = ("fit", "data", "init", "from")
"""The keys of a decoder in a run file that are not options of the component."""


class DecoderConfig(ComponentConfig):
    """A decoder's full id, its options, and the settings of its training stage."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    fit: FitConfig | None = None
    """Settings of the decoder's training, before the generator's."""
    data: ComponentConfig | None = None
    """Dataset of the decoder's training; null: the run's data."""
    init: tuple[InitConfig, ...] = ()
    """Weights with which the decoder's training starts; null: random weights."""
    source: str | None = pydantic.Field(None, alias="from")
    """Another run, whose trained decoder is used."""

    def dump(self) -> dict[str, Any]:
        stage = {
            "fit": self.fit and self.fit.dump(),
            "data": self.data and self.data.dump(),
            "init": [source.dump() for source in self.init] or None,
            "from": self.source,
        }
        return {**super().dump(), **{key: value for key, value in stage.items() if value is not None}}


def resolve_decoder(source: Source, path: KeyPath, value: Any) -> tuple[dict[str, Any], type[Any] | None]:
    """Resolves a decoder like `resolve`, with the keys of its stage. `from: RUN` alone means the decoder of that run.

    Returns:
        The data of a `DecoderConfig`, and the decoder's class, if it is known. Only the components of its `fit` have
        been validated; the other keys of `fit` have not.
    """
    given, untrained = dict(value) if isinstance(value, dict) else value, False
    stage = {key: given.pop(key) for key in STAGE_KEYS if isinstance(given, dict) and given.get(key) is not None}
    if isinstance(given, dict) and "from" in stage and "name" not in given:
        if given:
            source.report(path, f"'from' takes the other run's options: leave out {', '.join(map(show, given))}")
        given = _decoder_of(source, (*path, "from"), stage["from"])
        if given is None:
            return ComponentConfig(name="?").model_dump(), None
        untrained = not {"fit", "from"} & set(given)
        given = {key: value for key, value in given.items() if key not in STAGE_KEYS}
    component, cls = resolve(source, path, "decoder", given)
    if cls is not None:
        _check_stage(source, path, component.name, cls, stage, untrained)
    if "init" in stage:
        stage["init"] = as_sources(stage["init"])
    if "data" in stage:
        stage["data"] = resolve(source, (*path, "data"), "dataset", stage["data"])[0].model_dump()
    if "fit" in stage:
        stage["fit"] = resolve_fit(source, (*path, "fit"), stage["fit"])
    return {**component.model_dump(), **stage}, cls


def _check_stage(
    source: Source, path: KeyPath, name: str, cls: type[Any], stage: dict[str, Any], untrained: bool
) -> None:
    """Reports keys that are missing, and keys that have no meaning for this decoder.

    Args:
        source: The configuration, which receives the problems.
        path: The path of the decoder in it.
        name: The full id of the decoder.
        cls: The class of the decoder.
        stage: The keys of the stage.
        untrained: Whether it is the decoder of another run whose configuration has neither `fit` nor `from`.
    """
    from kgen.contracts.decoder import has_losses, learns_from_images

    trains, learns = has_losses(cls), learns_from_images(cls)
    if "fit" in stage and "from" in stage:
        source.report((*path, "fit"), "a decoder 'from' another run is already trained: leave out one of the two")
    elif untrained and (trains or not learns):
        run = stage["from"]
        source.report((*path, "from"), f"{run} has trained no decoder: look at decoder in its config.yaml")
    elif not learns and stage:
        key = next(iter(stage))
        source.report((*path, key), f"decoder '{name}' has nothing to train: leave '{key}' out")
    elif not trains and "fit" in stage:
        source.report(
            (*path, "fit"),
            f"decoder '{name}' has no losses to train by: leave 'fit' out. It is calibrated on the images without it",
        )
    elif trains and not {"fit", "from"} & set(stage):
        source.report(path, f"decoder '{name}' must be trained: give it 'fit: {{steps: ...}}', or take it 'from: RUN'")
    elif "data" in stage and trains and "fit" not in stage:
        source.report((*path, "data"), "has no effect without 'fit': add 'fit', or leave 'data' out")
    elif "data" in stage and "from" in stage:
        source.report((*path, "data"), "a decoder 'from' another run is already trained: leave out one of the two")
    elif "init" in stage and "fit" not in stage:
        source.report((*path, "init"), "is the start of 'fit', which is missing: leave 'init' out")


def _decoder_of(source: Source, path: KeyPath, run: Any) -> dict[str, Any] | None:
    """The decoder in the configuration of another run, with the keys of its stage."""
    if not isinstance(run, str):
        source.report(path, f"must be a run directory, got {show(run)}")
        return None
    try:
        found = read_file(Path(run) / "config.yaml").data.get("decoder")
    except ConfigError:
        source.report(path, f"{run} is not a run directory: give one that 'kgen run' made")
        return None
    if not isinstance(found, dict | str):
        source.report(path, f"{run} has trained no decoder: look at {dotted(('decoder',))} in its config.yaml")
        return None
    return {"name": found} if isinstance(found, str) else dict(found)
