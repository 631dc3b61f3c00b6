"""Resolves the components of a `fit` section: its optimizer and its callbacks."""

from __future__ import annotations

import warnings
from typing import Any

from kgen.config.components import ComponentConfig, resolve
from kgen.config.source import Source
from kgen.contracts.callback import refusal
from kgen.options.validation import KeyPath, dotted, show

OPTIMIZER = "kgen/adamw"
"""The default optimizer."""

MOVED = ("weight_decay", "beta_1", "beta_2")
"""Options of AdamW that were keys of `fit` before contract 1."""


INSTEAD = {
    "learning_rate": "fit.learning_rate",
    "clipnorm": "fit.clip_norm",
    "clipvalue": "fit.clip_norm",
    "global_clipnorm": "fit.clip_norm",
    "use_ema": "fit.ema",
    "ema_momentum": "fit.ema",
}
"""The keys of a run file that replace arguments of Keras's optimizers."""


def resolve_fit(source: Source, path: KeyPath, value: Any) -> Any:
    """Returns a `fit` section with resolved components, and reports problems to `source`.

    Args:
        source: The configuration that contains the section.
        path: Key path of the section.
        value: The section. A value that is not a mapping is returned unchanged.
    """
    if not isinstance(value, dict):
        return value
    place = (*path, "optimizer")
    fit = _moved(source, path, value)
    chosen = fit.get("optimizer", OPTIMIZER)
    if isinstance(chosen, dict):
        for key in INSTEAD.keys() & chosen.keys():
            source.report((*place, key), f"is not an option of an optimizer: set {INSTEAD[key]}")
        chosen = {key: given for key, given in chosen.items() if key not in INSTEAD}
    optimizer, _ = resolve(source, place, "optimizer", chosen)
    fit["optimizer"] = optimizer.model_dump()
    if isinstance(callbacks := fit.get("callbacks"), list):
        places = [(*path, "callbacks", number) for number in range(len(callbacks))]
        fit["callbacks"] = [_callback(source, *given) for given in zip(places, callbacks, strict=True)]
    return fit


def _moved(source: Source, path: KeyPath, value: dict[str, Any]) -> dict[str, Any]:
    """Returns the section with the options of AdamW moved into `optimizer`, where older run files lack it."""
    fit = {key: given for key, given in value.items() if key not in MOVED}
    former = {key: given for key, given in value.items() if key in MOVED}
    if not former:
        return fit
    chosen = fit.get("optimizer", OPTIMIZER)
    own = dict(chosen) if isinstance(chosen, dict) else {"name": chosen}
    for key, given in former.items():
        if own.get("name") not in (OPTIMIZER, OPTIMIZER.removeprefix("kgen/")):
            where = f"{{name: {own.get('name')}, {key}: {show(given)}}}"
            source.report((*path, key), f"is an option of the optimizer: write optimizer: {where}")
        elif key in own:
            source.report((*path, key), "is given twice: delete it here, because 'optimizer' has it")
        else:
            own[key] = given
            warnings.warn(f"{dotted(path)}: '{key}' is an option of 'optimizer' now", FutureWarning, stacklevel=3)
            source.where[(*path, "optimizer", key)] = source.at((*path, key))
    return {**fit, "optimizer": own}


def _callback(source: Source, path: KeyPath, value: Any) -> dict[str, Any]:
    name = value.get("name") if isinstance(value, dict) else value
    if isinstance(name, str) and (reason := refusal(name)):
        source.report(path, reason)
        return ComponentConfig(name="?").model_dump()
    component, cls = resolve(source, path, "callback", value)
    if cls is not None and (reason := refusal(cls)):
        source.report(path, f"callback '{component.name}' {reason}")
    return component.model_dump()
