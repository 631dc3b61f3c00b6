"""The components of a `fit` section: its optimizer and its callbacks."""

from __future__ import annotations

import warnings
from typing import Any

from kgen.config.components import ComponentConfig, resolve
from kgen.config.source import Source
from kgen.contracts.callback import refusal
from kgen.options.validation import KeyPath, dotted, show

OPTIMIZER = "kgen/adamw"
"""The optimizer where a run file names none."""

MOVED = ("weight_decay", "beta_1", "beta_2")
"""Options of AdamW that run files of before contract 1 have in `fit` itself."""


INSTEAD = {
    "learning_rate": "fit.learning_rate",
    "clipnorm": "fit.clip_norm",
    "clipvalue": "fit.clip_norm",
    "global_clipnorm": "fit.clip_norm",
    "use_ema": "fit.ema",
    "ema_momentum": "fit.ema",
}
"""What to give instead of options that Keras's optimizers have, and kgen sets."""


def resolve_fit(source: Source, path: KeyPath, value: Any) -> Any:
    """A `fit` section with its components looked up and checked; problems are reported to `source`.

    Args:
        path: Where the section lies.
        value: The section; what is no mapping is given back as it is.
    """
    if not isinstance(value, dict):
        return value
    place = (*path, "optimizer")
    fit = _moved(source, path, value)
    chosen = fit.get("optimizer", OPTIMIZER)
    if isinstance(chosen, dict):
        for key in INSTEAD.keys() & chosen.keys():
            source.report((*place, key), f"is no option here: give {INSTEAD[key]}")
        chosen = {key: given for key, given in chosen.items() if key not in INSTEAD}
    optimizer, _ = resolve(source, place, "optimizer", chosen)
    fit["optimizer"] = optimizer.model_dump()
    if isinstance(callbacks := fit.get("callbacks"), list):
        places = [(*path, "callbacks", number) for number in range(len(callbacks))]
        fit["callbacks"] = [_callback(source, *given) for given in zip(places, callbacks, strict=True)]
    return fit


def _moved(source: Source, path: KeyPath, value: dict[str, Any]) -> dict[str, Any]:
    """The section with AdamW's options where they belong: run files of before had them beside `optimizer`."""
    fit = {key: given for key, given in value.items() if key not in MOVED}
    former = {key: given for key, given in value.items() if key in MOVED}
    if not former:
        return fit
    chosen = fit.get("optimizer", OPTIMIZER)
    own = dict(chosen) if isinstance(chosen, dict) else {"name": chosen}
    for key, given in former.items():
        if own.get("name") not in (OPTIMIZER, OPTIMIZER.removeprefix("kgen/")):
            where = f"{{name: {own.get('name')}, {key}: {show(given)}}}"
            source.report((*path, key), f"is an option of the optimizer: write it as optimizer: {where}")
        elif key in own:
            source.report((*path, key), "is given twice: leave it out here, as 'optimizer' has it")
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
